"""The MLX export: what mlx-lm reads from it is the adapter. Laws by a reader in NumPy, and by mlx-lm where it is."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from adapter_files import (
    assert_same_logits,
    change_config,
    change_tensors,
    load,
    logits,
    lora_config,
    read_config,
    save_adapter,
    tokens,
    without_copies_of_base_weights,
)
from multilora import InputError, MultiLoraConfig
from multilora.adapter.export.mlx import MLX_WEIGHTS_FILE, export_mlx
from servers.mlx_reader import Array, delta_weights

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def base(make_llama: Make, tmp_path: Path) -> Path:
    make_llama(num_hidden_layers=3, tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return adapt(base, tmp_path / "adapter", multilora())


def adapt(base: Path, folder: Path, config: MultiLoraConfig | LoraConfig) -> Path:
    save_adapter(AutoModelForCausalLM.from_pretrained(base), folder, config)
    return folder


def multilora(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "lora_alpha": 6, "init_weights": False} | arguments))


def read(
    out: Path, model: PreTrainedModel, theirs: str = "model.layers", ours: str = "model.layers"
) -> dict[str, Array]:
    """ΔW by the layer's name in transformers, where the list of blocks is `theirs` in mlx-lm and `ours` in it."""
    shapes = {
        name.replace(ours, theirs, 1): tuple((m.weight.T if isinstance(m, Conv1D) else m.weight).shape)
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, Conv1D))
    }
    deltas = delta_weights(out, shapes, theirs, model.config.num_hidden_layers)
    return {name.replace(theirs, ours, 1): delta for name, delta in deltas.items()}


def assert_deltas_of(adapter: Path, base: PreTrainedModel, deltas: dict[str, Array], tolerance: float = 1e-6) -> None:
    """As PEFT computes them; a layer that the adapter has not gets none."""
    expected = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in load(base, adapter).named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert expected
    assert expected.keys() <= deltas.keys()
    for name, delta in deltas.items():
        if name in expected:
            delta_weight = expected[name].numpy()
            assert abs(delta - delta_weight).max() <= tolerance * abs(delta_weight).max()
        else:
            assert not delta.any()


CONFIGS = [
    multilora(),
    multilora(scaling="scalar"),
    multilora(scaling="none", target_modules=["q_proj", "v_proj"]),
    multilora(rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 5}, alpha_pattern={"up_proj": 9}),
    multilora(target_modules=["layers.1.mlp.up_proj", "layers.2.self_attn.k_proj"]),
    multilora(target_modules=["layers.0.mlp.up_proj"]),
    multilora(target_modules=["q_proj", "down_proj"], layers_to_transform=[1]),
    lora_config(use_rslora=True, rank_pattern={"q_proj": 7}),
    lora_config(target_modules=["o_proj"]),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_delta_weights_are_the_adapter_s(config: Any, base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", config)
    report = export_mlx(adapter, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    assert_deltas_of(adapter, model, read(tmp_path / "out", model))
    assert (report.format, report.relative_error, report.base_model) == ("mlx", 0.0, str(base))


def test_the_form_is_mlx_lm_s(adapter: Path, base: Path, tmp_path: Path) -> None:
    report = export_mlx(adapter, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config == {
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "keys": config["lora_parameters"]["keys"], "rank": 12, "scale": 1.0},
        "model": str(base),
        "num_layers": 3,
    }
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    names = {*(f"self_attn.{name}" for name in attention), *(f"mlp.{name}" for name in mlp)}
    assert set(config["lora_parameters"]["keys"]) == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "adapter_config.json",
        MLX_WEIGHTS_FILE,
    ]
    with safe_open(tmp_path / "out" / MLX_WEIGHTS_FILE, "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    assert len(shapes) == 2 * len(report.layers) == 2 * 3 * 7
    assert shapes["model.layers.2.mlp.down_proj.lora_a"] == (80, 12)
    assert shapes["model.layers.2.mlp.down_proj.lora_b"] == (12, 48)


@pytest.mark.parametrize(("first", "expected"), [(0, 3), (1, 2), (2, 1)])
def test_blocks_are_counted_from_the_end(first: int, expected: int, base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", multilora(target_modules=[f"layers.{first}.mlp.up_proj"]))
    export_mlx(adapter, tmp_path / "out")
    assert read_config(tmp_path / "out")["num_layers"] == expected


def test_truncation_and_cast_are_those_of_the_plain_lora(adapter: Path, base: Path, tmp_path: Path) -> None:
    from multilora import export_lora

    report = export_mlx(adapter, tmp_path / "out", rank=5, dtype="float16")
    plain = export_lora(adapter, tmp_path / "plain", rank=5, dtype="float16")
    assert report.rank == 5
    assert report.layers == plain.layers
    assert report.relative_error == plain.relative_error > 0
    model = AutoModelForCausalLM.from_pretrained(base)
    assert_deltas_of(tmp_path / "plain", model, read(tmp_path / "out", model), tolerance=5e-3)


def test_conv1d_and_renamed_blocks(make_gpt2: Make, tmp_path: Path) -> None:
    """GPT-2: weights (d_in, d_out), and blocks that are `transformer.h` here and `model.h` there."""
    make_gpt2().save_pretrained(tmp_path / "base")
    adapter = adapt(tmp_path / "base", tmp_path / "adapter", multilora())
    export_mlx(adapter, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    deltas = read(tmp_path / "out", model, theirs="model.h", ours="transformer.h")
    assert_deltas_of(adapter, model, {name: delta.T for name, delta in deltas.items()})


def test_gpt_neox_blocks_are_renamed(tmp_path: Path) -> None:
    shape = {"vocab_size": 67, "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2}
    GPTNeoXForCausalLM(GPTNeoXConfig(**shape, num_attention_heads=4)).save_pretrained(tmp_path / "base")
    adapter = adapt(tmp_path / "base", tmp_path / "adapter", multilora())
    export_mlx(adapter, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert_deltas_of(adapter, model, read(tmp_path / "out", model, theirs="model.h", ours="gpt_neox.layers"))


def adapt_output_layer(base: Path, folder: Path, targets: list[str]) -> Path:
    # As an older version saved it: of a tied output layer a new adapter would be refused.
    adapt(base, folder, multilora(target_modules=targets, inference_mode=True))
    without_copies_of_base_weights(base, folder)
    return folder


@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["lm_head"]])
def test_an_untied_output_layer_is_taken(targets: list[str], base: Path, tmp_path: Path) -> None:
    adapter = adapt_output_layer(base, tmp_path / "adapter", targets)
    export_mlx(adapter, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    deltas = read(tmp_path / "out", model)
    assert deltas["lm_head"].any()
    assert_deltas_of(adapter, model, deltas)


# Bad input ---------------------------------------------------------------------------------------------------------


def assert_refused(match: str, adapter: Path, out: Path, **arguments: Any) -> None:
    with pytest.raises(InputError, match=match):
        export_mlx(adapter, out, **arguments)
    assert not out.exists()
    assert not list(out.parent.glob(".*"))


def test_a_tied_output_layer_is_refused(make_llama: Make, tmp_path: Path) -> None:
    make_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    adapter = adapt_output_layer(tmp_path / "base", tmp_path / "adapter", ["lm_head", "q_proj"])
    assert_refused(r"cannot take 'lm_head'\. Merge the adapter", adapter, tmp_path / "out")


def test_layers_outside_the_blocks_are_refused_by_name(base: Path, adapter: Path, tmp_path: Path) -> None:
    """As an embedding's projection or a second list of blocks (an encoder) would be."""

    class Wider(nn.Module):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__()
            self.config, self.model, self.projection = model.config, model.model, nn.Linear(48, 48, bias=False)
            self.encoder = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(48, 48, bias=False)})])

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            raise NotImplementedError

    def copy(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            for other in ("projection", "encoder.0.up"):
                if "layers.0.self_attn.q_proj" in name:
                    tensors[name.replace("model.layers.0.self_attn.q_proj", other)] = tensors[name].clone()

    change_tensors(adapter, copy)
    wider = Wider(AutoModelForCausalLM.from_pretrained(base))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multilora.adapter.export.mlx.model_structure", lambda _: wider)
        assert_refused("cannot take 'encoder.0.up', 'projection'", adapter, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.*whole modules were trained"),
        ({"base_model_name_or_path": None}, "names no base model.*--base"),
        ({"base_model_name_or_path": "/no/such/folder"}, r"no model folder '/no/such/folder'.*--base"),
        ({"base_model_name_or_path": "nobody/no-such-model"}, r"cannot build the model 'nobody.*--base"),
    ],
)
def test_what_cannot_be_said_is_refused(change: dict[str, Any], match: str, adapter: Path, tmp_path: Path) -> None:
    change_config(adapter, **change)
    assert_refused(match, adapter, tmp_path / "out")


def test_dora_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", lora_config(use_dora=True))
    assert_refused("use_dora is set: DoRA", adapter, tmp_path / "out")


def test_another_model_s_adapter_is_refused(adapter: Path, make_llama: Make, make_gpt2: Make, tmp_path: Path) -> None:
    other, wider = tmp_path / "other", tmp_path / "wider"
    make_gpt2().save_pretrained(other)
    make_llama(num_hidden_layers=3, hidden_size=96).save_pretrained(wider)
    assert_refused("is no linear layer of the base model .*other.*--base", adapter, tmp_path / "out", base=str(other))
    assert_refused(r"has \(d_in, d_out\) = \(80, 48\), and \(80, 96\) in", adapter, tmp_path / "out", base=str(wider))


def test_float64_is_refused(adapter: Path, tmp_path: Path) -> None:
    assert_refused("export with dtype float32", adapter, tmp_path / "out", dtype="float64")


def test_a_plain_export_is_not_overwritten(adapter: Path, tmp_path: Path) -> None:
    from multilora import export_lora

    export_lora(adapter, tmp_path / "out")
    with pytest.raises(InputError, match=r"overwriting would lose: adapter_model\.safetensors"):
        export_mlx(adapter, tmp_path / "out", overwrite=True)
    export_mlx(adapter, tmp_path / "mlx")
    export_mlx(adapter, tmp_path / "mlx", overwrite=True)


def test_a_model_type_that_was_not_read_back_is_said(tmp_path: Path, adapter: Path) -> None:
    BloomForCausalLM(BloomConfig(vocab_size=67, hidden_size=48, n_layer=2, n_head=4)).save_pretrained(
        tmp_path / "other"
    )
    adapt(tmp_path / "other", tmp_path / "bloom", multilora())
    with pytest.warns(UserWarning, match="'bloom' model has been read back"):
        export_mlx(tmp_path / "bloom", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_mlx(adapter, tmp_path / "llama")


# mlx-lm itself -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="needs mlx-lm: pip install 'mlx[cpu]' mlx-lm")
@pytest.mark.parametrize("targets", ["all-linear", ["lm_head", "q_proj"], ["layers.1.mlp.up_proj"]])
def test_mlx_lm_computes_the_adapted_model_s_logits(targets: Any, base: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    adapter = tmp_path / "adapter"
    if "lm_head" in targets:
        adapt_output_layer(base, adapter, targets)
    else:
        adapt(base, adapter, multilora(target_modules=targets))
    export_mlx(adapter, tmp_path / "out")
    theirs = load_adapters(load_model(base)[0], str(tmp_path / "out"))
    adapted = load(AutoModelForCausalLM.from_pretrained(base), adapter)
    computed = np.array(theirs(mx.array(tokens(adapted).numpy())).astype(mx.float32))
    assert_same_logits(torch.from_numpy(computed), logits(adapted))
