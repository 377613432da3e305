"""Counts equal those of the model with the method really applied."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from llama_shapes import LLAMA, llama, method
from multilora.base.shape import base_structure
from multilora.errors import InputError
from multilora.resources.parameters import Parameters
from multilora.training.model import apply_method


def applied(model: Any, chosen: Any) -> tuple[nn.Module, Counter[str]]:
    """The model with the method, and its trainable parameters by kind, counted one by one."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted, _ = apply_method(model, chosen)
    kinds: Counter[str] = Counter()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            part = next((part for part in ("lora_A", "lora_B", "scaling") if part in name), "other")
            kinds[part] += parameter.numel()
    return adapted, kinds


@pytest.mark.parametrize(
    "options",
    [
        {"name": "multilora", "scaling": "vector"},
        {"name": "multilora", "scaling": "scalar"},
        {"name": "multilora", "scaling": "none"},
        {"name": "multilora", "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 8}},
        {"name": "lora", "r": 96},
        {"name": "full"},
    ],
    ids=str,
)
def test_a_7b_models_counts_are_those_of_the_model_with_the_method_applied(options: dict[str, Any]) -> None:
    chosen = method(**options)
    model, _ = base_structure(llama("7b"))
    counts = Parameters.of(model, chosen)
    base = sum(parameter.numel() for parameter in model.parameters())
    adapted, kinds = applied(model, chosen)
    assert counts.base_total == base
    assert counts.trainable == sum(kinds.values())
    assert counts.base_total + counts.added == sum(parameter.numel() for parameter in adapted.parameters())
    if options["name"] != "full":
        assert counts.trained == kinds


@pytest.mark.parametrize("size", LLAMA)
def test_the_bases_counts_are_what_the_shape_says(size: str) -> None:
    hidden, mlp, layers, _ = LLAMA[size]
    counts = Parameters.of(base_structure(llama(size))[0], method("full"))
    assert counts.base == {
        "embeddings": 32000 * hidden,
        "linear": layers * (4 * hidden * hidden + 3 * hidden * mlp),
        "output_layer": 32000 * hidden,
        "other": (2 * layers + 1) * hidden,
    }


@pytest.mark.parametrize("name", ["multilora", "lora"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": r".*\.1\..*(q_proj|down_proj)"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["o_proj"], "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm"], "bias": "all"},
        {"trainable_token_indices": [1, 5, 7]},
        {"trainable_token_indices": {"embed_tokens": [2, 4]}},
    ],
    ids=str,
)
def test_every_option_that_changes_what_is_trained_is_counted(
    name: str, options: dict[str, Any], make_llama: Any
) -> None:
    model = make_llama()
    chosen = method(name, r=4, **options)
    counts = Parameters.of(model, chosen)
    _, kinds = applied(model, chosen)
    assert counts.trainable == sum(kinds.values())
    assert {kind: counts.trained.get(kind, 0) for kind in ("lora_A", "lora_B", "scaling")} == {
        kind: kinds[kind] for kind in ("lora_A", "lora_B", "scaling")
    }


@pytest.mark.parametrize(
    ("name", "bias"), [("multilora", "all"), ("multilora", "multilora_only"), ("lora", "lora_only"), ("lora", "none")]
)
def test_biases_and_shared_weights_are_counted(name: str, bias: str, make_gpt2: Any) -> None:
    model = make_gpt2()
    base = sum(parameter.numel() for parameter in model.parameters())
    chosen = method(name, r=4, bias=bias, target_modules=["c_attn"])
    counts = Parameters.of(model, chosen)
    _, kinds = applied(model, chosen)
    assert counts.base_total == base
    assert counts.trainable == sum(kinds.values())


@pytest.mark.parametrize("options", [{"name": "multilora", "r": 8}, {"name": "lora", "r": 24}])
def test_the_file_is_as_long_as_its_tensors(options: dict[str, Any], make_llama: Any, tmp_path: Path) -> None:
    model = make_llama(hidden_size=192, intermediate_size=512)
    chosen = method(**options)
    expected = Parameters.of(model, chosen).file_bytes
    get_peft_model(model, chosen.peft_config()).save_pretrained(str(tmp_path))  # type: ignore[union-attr]
    header = 8 + 200 * 3 * 14  # at most three tensors of each layer, each with its name, shape and place
    assert 0 < (tmp_path / "adapter_model.safetensors").stat().st_size - expected < header


def test_counting_leaves_the_model_as_it_is(make_llama: Any) -> None:
    model = make_llama()
    before = [name for name, _ in model.named_modules()]
    Parameters.of(model, method("multilora"))
    assert [name for name, _ in model.named_modules()] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_porj"]}, r"target_modules \['q_porj'\].*nearest: 'q_proj'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "output layer 'lm_head'"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens.*only linear layers"),
        ({"modules_to_save": ["lm_haed"]}, "modules_to_save.*lm_haed"),
        ({"trainable_token_indices": {"embed_tonkens": [1]}}, "embed_tonkens"),
    ],
)
def test_layers_that_the_model_does_not_have_are_refused(
    options: dict[str, Any], message: str, make_llama: Any
) -> None:
    with pytest.raises(InputError, match=message):
        Parameters.of(make_llama(), method("multilora", **options))
