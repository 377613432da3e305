"""Adapters between model and file: whole or refused, whatever they are called, and with the configuration they have."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from adapter_files import change_config, load, logits
from multilora import InputError, MultiLoraConfig
from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import PREFIX, WEIGHTS_FILE, open_adapter
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]


def config(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 2, "num_loras": 2, "init_weights": False} | arguments))


def save(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / WEIGHTS_FILE)


def load_new(model: PreTrainedModel, folder: Path, low_cpu_mem_usage: bool) -> None:
    PeftModel.from_pretrained(model, folder, low_cpu_mem_usage=low_cpu_mem_usage)


def load_beside(model: PreTrainedModel, folder: Path, low_cpu_mem_usage: bool) -> None:
    get_peft_model(model, config()).load_adapter(folder, "second", low_cpu_mem_usage=low_cpu_mem_usage)


def load_over(model: PreTrainedModel, folder: Path, low_cpu_mem_usage: bool) -> None:
    get_peft_model(model, config()).load_adapter(folder, "default", low_cpu_mem_usage=low_cpu_mem_usage)


# Whole or not at all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("loading", [load_new, load_beside, load_over])
@pytest.mark.parametrize(
    ("keep", "lacking"),
    [
        (lambda key: False, 42),  # an empty file
        (lambda key: "q_proj" in key, 36),  # fewer targets
        (lambda key: "layers.0" in key, 21),  # a deeper base
        (lambda key: "layers.1.mlp.up_proj.multilora_scaling" not in key, 1),
    ],
)
def test_an_adapter_with_missing_tensors_is_refused(
    make_llama: Make, tmp_path: Path, loading: Any, keep: Callable[[str], bool], lacking: int, low_cpu_mem_usage: bool
) -> None:
    tensors = save(get_peft_model(make_llama(), config()), tmp_path)
    save_file({key: tensor for key, tensor in tensors.items() if keep(key)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(
        InputError, match=rf"not whole: of the 42 tensors that it has in this model {lacking} are lackin"
    ):
        loading(make_llama(), tmp_path, low_cpu_mem_usage)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_an_adapter_that_is_refused_is_not_left_in_the_model(
    make_llama: Make, tmp_path: Path, low_cpu_mem_usage: bool
) -> None:
    model = get_peft_model(make_llama(), config()).eval()
    save(model, tmp_path)
    save_file({}, tmp_path / WEIGHTS_FILE)
    before, keys = logits(model), model.state_dict().keys()
    with pytest.raises(InputError, match="42 are lacking"):
        model.load_adapter(tmp_path, "second", low_cpu_mem_usage=low_cpu_mem_usage)
    assert list(model.peft_config) == model.active_adapters == ["default"]
    assert model.state_dict().keys() == keys
    assert torch.equal(logits(model), before)


def test_a_deeper_base_is_refused(make_llama: Make, tmp_path: Path) -> None:
    save(get_peft_model(make_llama(), config(target_modules=["q_proj"])), tmp_path)
    with pytest.raises(InputError, match=r"of the 9 tensors .* 3 are lacking, such as .*layers\.2\.self_attn\.q_proj"):
        PeftModel.from_pretrained(make_llama(num_hidden_layers=3), tmp_path)


def test_a_state_dict_is_set_whole_or_as_a_part_on_purpose(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), config())
    state = get_peft_model_state_dict(model)
    assert not set_peft_model_state_dict(model, state).unexpected_keys
    part = dict(list(state.items())[:3])
    with pytest.raises(InputError, match=r"to load a part on purpose: model\.load_state_dict\(part, strict=False\)"):
        set_peft_model_state_dict(model, part)


def test_a_layer_that_the_model_has_twice_needs_one_copy(make_llama: Make, tmp_path: Path) -> None:
    def twice() -> PreTrainedModel:
        base = make_llama()
        base.model.layers[1] = base.model.layers[0]
        return base

    model = get_peft_model(twice(), config()).eval()
    assert len(save(model, tmp_path)) == 21
    assert torch.equal(logits(load(twice(), tmp_path)), logits(model))


def test_biases_and_whole_modules_beside_the_adapter_are_no_matter(make_gpt2: Make, tmp_path: Path) -> None:
    model = get_peft_model(make_gpt2(), config(bias="all", modules_to_save=["ln_f"])).eval()
    save(model, tmp_path)
    assert torch.equal(logits(load(make_gpt2(), tmp_path)), logits(model))


# Adapter names that are names of modules ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1", "layers", "q_proj", "weight", "multilora_A", "2", "proj"])
@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_named_like_a_module_is_saved_whole_or_refused(
    make_llama: Make, tmp_path: Path, name: str, beside: bool
) -> None:
    try:
        model = get_peft_model(make_llama(), config(), adapter_name="first" if beside else name).eval()
        if beside:
            model.add_adapter(name, config())
        model.set_adapter(name)
    except (ValueError, KeyError) as error:
        assert name in str(error)  # noqa: PT017 - refused, and it says which name
        return
    model.save_pretrained(tmp_path)
    for saved in model.peft_config:
        model.set_adapter(saved)
        folder = tmp_path / saved
        assert len(open_adapter(folder).layers) == 14
        loaded = load(make_llama(), folder)
        assert torch.equal(logits(loaded), logits(model))


# The configuration that is saved ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"num_loras": 3},
        {"r": 4},
        {"lora_alpha": 7},
        {"scaling": "none"},
        {"scaling_function": "linear"},
        {"scaling_constant": 3.0},
        {"rank_pattern": {"q_proj": 1}},
        {"alpha_pattern": {r".*layers\.1.*": 1.5}},
    ],
)
def test_a_configuration_that_was_changed_is_not_saved(
    make_llama: Make, tmp_path: Path, change: dict[str, Any]
) -> None:
    model = get_peft_model(make_llama(), config())
    (field, value), *_ = change.items()
    setattr(model.peft_config["default"], field, value)
    with pytest.raises(InputError, match=r"peft_config\['default'\] was changed after the adapter was made: "):
        model.save_pretrained(tmp_path)
    assert not any((tmp_path / name).exists() for name in (WEIGHTS_FILE, CONFIG_FILE))


def test_what_does_not_change_delta_weight_may_be_changed(make_llama: Make, tmp_path: Path) -> None:
    settings = config(rank_pattern={"q_proj": 1}, alpha_pattern={r".*layers\.1.*": 3})
    model = get_peft_model(make_llama(), settings).eval()
    model.peft_config["default"].lora_dropout = 0.3
    model.peft_config["default"].base_model_name_or_path = "somewhere"
    save(model, tmp_path)
    assert torch.equal(logits(load(make_llama(), tmp_path)), logits(model))


@pytest.mark.parametrize("patterns", [["q_proj", r".*layers\.0.*"], [r".*layers\.0.*", "q_proj"]])
def test_overlapping_patterns_mean_the_same_before_and_after_a_reload(
    make_llama: Make, tmp_path: Path, patterns: list[str]
) -> None:
    ranks, alphas = dict(zip(patterns, (1, 3), strict=True)), dict(zip(patterns, (5, 6), strict=True))
    with pytest.warns(
        UserWarning, match=re.escape("_pattern: '.*layers\\\\.0.*' and 'q_proj' match 'model.layers.0.")
    ) as said:
        model = get_peft_model(make_llama(), config(rank_pattern=ranks, alpha_pattern=alphas)).eval()
    assert len([each for each in said if "alphabetical" in str(each.message)]) == 2
    save(model, tmp_path)
    assert torch.equal(logits(load(make_llama(), tmp_path)), logits(model))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MultiLoraLinear)}
    layer = layers["base_model.model.model.layers.0.self_attn.q_proj"]
    assert layer.r["default"] == ranks[r".*layers\.0.*"]


@pytest.mark.filterwarnings("ignore:.*_pattern. '")
def test_a_file_in_another_order_is_read_as_it_is_loaded(make_llama: Make, tmp_path: Path) -> None:
    patterns = {"v_proj": 1, ".*v_proj": 2}
    save(get_peft_model(make_llama(), config(rank_pattern=patterns, alpha_pattern=patterns)), tmp_path)
    change_config(tmp_path, rank_pattern=patterns, alpha_pattern=patterns)  # not in alphabetical order
    loaded = load(make_llama(), tmp_path)
    layers = {name.removeprefix(PREFIX): m for name, m in loaded.named_modules() if isinstance(m, MultiLoraLinear)}
    for name, layer in open_adapter(tmp_path).layers.items():
        assert (layer.r, layer.alpha_over_r) == (layers[name].r["default"], layers[name].alpha_over_r["default"])


def test_patterns_of_one_value_are_not_warned_of(make_llama: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(make_llama(), config(rank_pattern={"q_proj": 1, r".*layers\.0.*": 1}))
