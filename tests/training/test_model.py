from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import MambaConfig, MambaForCausalLM

from multilora import InputError
from multilora.base.loading import ModelSource, weights_dtype
from multilora.recipe import FullMethod, LoraMethod, ModelSection, MultiLoraMethod
from multilora.training.model import ParameterCounts, apply_method, check_packing, check_trainable
from tiny_run import make_model


def source(path: Any) -> ModelSource:
    return ModelSource.find(ModelSection(path=str(path)))


def method(**values: Any) -> Any:
    return TypeAdapter(MultiLoraMethod | LoraMethod | FullMethod).validate_python(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def test_a_folder_is_found_and_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    found = source("model")
    assert found.location == str(folder.resolve())  # an adapter must find its base from anywhere
    assert found.model(torch.float32).config.hidden_size == 32
    assert found.tokenizer().eos_token == "</s>"


@pytest.mark.parametrize("path", ["/nowhere/model", "./model2", "../x", "a/b/c", "{here}/modle", "{here}/"])
def test_a_missing_folder_is_refused_before_any_hub_is_asked(folder: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"no model folder|no config\.json") as error:
        source(path.format(here=folder.parent))
    if "modle" in path:
        assert "nearest: 'model'" in str(error.value)


def test_a_missing_folder_beside_others_is_no_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    with pytest.raises(InputError, match="no model folder"):
        source(f"{folder.parent.name}/modell")


@pytest.mark.parametrize("path", ["gpt2", "org/model"])
def test_a_hub_id_without_a_hub_says_what_could_not_be_had(path: str) -> None:
    with pytest.raises(InputError, match=f"cannot load the configuration of '{path}'"):
        source(path).check_config()


def test_broken_folders(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lacking = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 3 weights.*such as 'model\.layers\.1\.mlp"):
        source(folder).model(torch.float32)
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="cannot load the model"):
        source(folder).model(torch.float32)
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(InputError, match="cannot load the configuration"):
        source(folder).check_config()
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot load the configuration"):
        source(folder).check_config()


def test_a_model_that_is_no_language_model_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match="cannot load the model"):
        source(folder).model(torch.float32)


@pytest.mark.parametrize("name", ["multilora", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_are_fp32_on_any_base(folder: Path, name: str, precision: str) -> None:
    chosen = method(name=name, r=2)
    base = source(folder).model(weights_dtype(chosen, precision))
    model, _ = apply_method(base, chosen)
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16 if precision == "bf16" else torch.float32}
    check_trainable(model)


def test_full_fine_tuning_keeps_fp32_weights(folder: Path) -> None:
    chosen = method(name="full")
    assert weights_dtype(chosen, "bf16") == torch.float32
    model, _ = apply_method(source(folder).model(torch.float32), chosen)
    counts = ParameterCounts.of(model)
    assert counts.trainable == counts.total > 0


def test_a_scale_that_is_not_fp32_is_noticed(folder: Path) -> None:
    model, _ = apply_method(source(folder).model(torch.bfloat16), method(name="multilora", r=2))
    for name, parameter in model.named_parameters():
        if "scaling" in name:
            parameter.data = parameter.data.bfloat16()
    with pytest.raises(RuntimeError, match="scale is not in fp32"):
        check_trainable(model)


def test_base_weights_that_would_be_trained_in_bf16_are_refused(folder: Path) -> None:
    chosen = method(name="multilora", r=2, modules_to_save=["lm_head"])
    apply_and_check = lambda dtype: check_trainable(apply_method(source(folder).model(dtype), chosen)[0])  # noqa: E731
    apply_and_check(torch.float32)
    with pytest.raises(InputError, match=r"training\.precision: .*lm_head.*set training\.precision to fp32"):
        apply_and_check(torch.bfloat16)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"name": "multilora", "target_modules": ["q_porj"]}, r"method: .*q_porj.*nearest: 'q_proj'"),
        ({"name": "lora", "target_modules": ["q_porj"]}, r"method: .*q_porj"),
        ({"name": "multilora", "target_modules": ["q_proj", "lm_head"]}, "output layer"),
        ({"name": "lora", "target_modules": ["q_proj", "lm_head"]}, "output layer"),
    ],
)
def test_targets_that_do_not_fit(folder: Path, values: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        apply_method(source(folder).model(torch.float32), method(r=2, **values))


def test_warnings_of_many_layers_are_one_line(folder: Path) -> None:
    _, warnings = apply_method(source(folder).model(torch.float32), method(name="multilora", r=12, num_loras=3))
    assert len(warnings) == 1, warnings
    assert "more layers" in warnings[0]


def test_trained_tokens_of_tied_embeddings_are_refused(tmp_path: Path) -> None:
    """TRL's loss reads the output layer's weight and would not see them."""
    model = source(make_model(tmp_path / "model")).model(torch.float32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    with pytest.raises(InputError, match=r"method\.trainable_token_indices: .*tie_word_embeddings"):
        apply_method(model, method(name="multilora", r=2, trainable_token_indices=[5, 6]))


# Packing ------------------------------------------------------------------------------------------------------------


def test_a_model_that_heeds_positions_may_be_packed(folder: Path) -> None:
    model = source(folder).model(torch.float32).train()
    before = torch.get_rng_state()
    check_packing(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_whose_examples_see_each_other_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = source(folder).model(torch.float32)
    forward = model.forward
    # A cache is what makes transformers forget the mask between examples.
    monkeypatch.setattr(model, "forward", lambda **inputs: forward(**(inputs | {"use_cache": True})))
    with pytest.raises(InputError, match=r"training\.packing: with LlamaForCausalLM the examples .* see each other"):
        check_packing(model)


def test_a_recurrent_model_is_not_packed() -> None:
    shape = {"vocab_size": 67, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    with pytest.raises(InputError, match=r"training\.packing: "):
        check_packing(MambaForCausalLM(MambaConfig(**shape)))
