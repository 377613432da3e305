"""PEFT's functions for adapters that exist: what works with MultiLoRA, and what refuses it before anything changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    XLoraConfig,
    get_peft_model,
    initialize_lora_eva_weights,
)
from peft.helpers import rescale_adapter_scale
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer
from peft.tuners.lora.intruders import reduce_intruder_dimension
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor
from transformers import PreTrainedModel

from adapter_files import assert_same_logits, load, logits
from multilora import InputError, MultiLoraConfig, param_groups
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]


def config(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 2, "num_loras": 2, "init_weights": False} | arguments))


def saved(base: PreTrainedModel, folder: Path, seed: int = 1, **arguments: Any) -> Tensor:
    torch.manual_seed(seed)
    model = get_peft_model(base, config(**arguments)).eval()
    model.save_pretrained(folder)
    return logits(model)


# Loading in the place of an adapter -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"lora_alpha": 7},
        {"alpha_pattern": {"q_proj": 5}},
        {"scaling_function": "tanh", "scaling_constant": 3.0},
    ],
)
@pytest.mark.parametrize("changed_before", [False, True])
def test_an_adapter_loaded_under_a_name_in_use_is_what_the_file_says(
    make_llama: Make, tmp_path: Path, other: dict[str, Any], changed_before: bool
) -> None:
    expected = saved(make_llama(), tmp_path / "other", seed=2, **other)
    model = get_peft_model(make_llama(), config(lora_alpha=3, alpha_pattern={"up_proj": 9})).eval()
    parameters = dict(model.named_parameters())
    if changed_before:
        for layer in model.modules():
            if isinstance(layer, MultiLoraLinear):
                layer.set_scale("default", 0.25)
    model.load_adapter(tmp_path / "other", "default")
    assert torch.equal(logits(model), expected)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())  # swapped in place
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(make_llama(), tmp_path / "again")), expected)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"num_loras": 3}, "has num_loras=2 in layer 'model.layers.0.self_attn.q_proj', and the file has 3"),
        ({"r": 3}, "has r=2 in layer .*, and the file has 3"),
        ({"r": 4, "num_loras": 1}, "has r=2 in layer .*, and the file has 4"),  # the same n·r
        ({"scaling": "none"}, "has scaling='vector' in layer .*, and the file has 'none'"),
        ({"scaling": "scalar"}, r"Call delete_adapter\('default'\) first"),
        ({"exclude_modules": ["q_proj"]}, "not whole: .* 6 are lacking"),
    ],
)
def test_an_adapter_that_does_not_fit_in_its_place_is_refused(
    make_llama: Make, tmp_path: Path, other: dict[str, Any], match: str
) -> None:
    saved(make_llama(), tmp_path / "other", **other)
    model = get_peft_model(make_llama(), config()).eval()
    before = logits(model)
    with pytest.raises(InputError, match=match):
        model.load_adapter(tmp_path / "other", "default")
    assert torch.equal(logits(model), before)


def test_a_configuration_given_to_from_pretrained_counts(make_llama: Make, tmp_path: Path) -> None:
    saved(make_llama(), tmp_path, lora_alpha=3)
    model = PeftModel.from_pretrained(make_llama(), tmp_path, config=config(lora_alpha=6))
    assert {m.lora_alpha["default"] for m in model.modules() if isinstance(m, MultiLoraLinear)} == {6}


def test_more_targets_than_the_adapter_has_are_refused(make_llama: Make, tmp_path: Path) -> None:
    saved(make_llama(), tmp_path / "other")
    model = get_peft_model(make_llama(), config(target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"36 of its tensors have no place"):
        model.load_adapter(tmp_path / "other", "default")


def test_a_merged_adapter_is_not_swapped(make_llama: Make, tmp_path: Path) -> None:
    saved(make_llama(), tmp_path / "other")
    model = get_peft_model(make_llama(), config())
    model.merge_adapter()
    with pytest.raises(InputError, match=r"is merged.*unmerge_adapter\(\) first"):
        model.load_adapter(tmp_path / "other", "default")


def test_an_adapter_of_another_method_is_refused(make_llama: Make, tmp_path: Path) -> None:
    get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is an adapter of LoraConfig, and 'default' is one of MultiLoRA"):
        get_peft_model(make_llama(), config()).load_adapter(tmp_path, "default")


def test_loras_of_peft_load_as_before(make_llama: Make, tmp_path: Path) -> None:
    get_peft_model(make_llama(), config())  # PEFT's call is changed by now
    model = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path)
    expected = logits(model)
    model.load_adapter(tmp_path, "default")
    model.load_adapter(tmp_path, "second")
    assert torch.equal(logits(model), expected)
    assert PeftModel.load_adapter.__doc__ is not None


# Rescaling, optimizers ------------------------------------------------------------------------------------------------


def test_rescale_adapter_scale(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), config(lora_alpha=6)).eval()
    half = copy.deepcopy(model)
    for layer in half.modules():
        if isinstance(layer, MultiLoraLinear):
            layer.set_scale("default", 0.5)
    before = logits(model)
    with rescale_adapter_scale(model, 0.5):
        assert_same_logits(logits(model), logits(half))
        assert (logits(model) - before).abs().max() > 1e-3
    assert torch.equal(logits(model), before)
    lora = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    with rescale_adapter_scale(lora, 0.0):
        assert_same_logits(logits(lora), logits(make_llama()))


def test_loraplus_is_our_groups_with_a_ratio_for_b(make_llama: Make) -> None:
    """The vector scale has the rate of A, as by default; a scalar one PEFT takes for a bias, with the rate of B."""

    def rates(groups: list[dict[str, Any]]) -> dict[int, float]:
        return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}

    model = get_peft_model(make_llama(), config())
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert rates(optimizer.param_groups) == rates(param_groups(model, 1e-3, b_lr_ratio=16))
    model = get_peft_model(make_llama(), config(scaling="scalar"))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert rates(optimizer.param_groups) == rates(param_groups(model, 1e-3, b_lr_ratio=16, scaling_lr_ratio=16))


def test_lora_fa_is_refused_before_anything_is_frozen(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), config())
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(InputError, match=r"create_lorafa_optimizer.*multilora\.param_groups"):
        create_lorafa_optimizer(model, r=2, lora_alpha=2, lr=1e-3)
    assert [parameter.requires_grad for parameter in model.parameters()] == before


# What is LoRA's alone -------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "EVA": (
        lambda model, _: initialize_lora_eva_weights(model, [{}]),
        "no 'init_lora_weights'.*does not take MultiLoRA",
    ),
    "Riemannian": (
        lambda model, _: create_riemannian_optimizer(model, torch.optim.AdamW, lr=1e-3),
        "only applies to LoRA-style adapters",
    ),
    "intruders": (
        lambda model, _: reduce_intruder_dimension(model),
        "is not using LoRA and is therefore not supported",
    ),
    "hotswap": (lambda model, folder: hotswap_adapter(model, str(folder), "default"), "only supports LORA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_made_for_lora_alone_says_so(make_llama: Make, tmp_path: Path, case: str) -> None:
    call, match = REFUSED[case]
    saved(make_llama(), tmp_path)
    model = get_peft_model(make_llama(), config()).eval()
    before, trained = logits(model), [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=match):
        call(model, tmp_path)
    assert torch.equal(logits(model), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


def test_xlora_says_so(make_llama: Make, tmp_path: Path) -> None:
    saved(make_llama(), tmp_path)
    base = make_llama()
    base.config.use_cache = False
    settings = XLoraConfig(task_type="CAUSAL_LM", hidden_size=48, xlora_depth=1, adapters={"0": str(tmp_path)})
    with pytest.raises(InputError, match=r"no 'layer_replication'.*X-LoRA"):
        get_peft_model(base, settings)


def test_transformers_hotswap_says_so(make_llama: Make, tmp_path: Path) -> None:
    saved(make_llama(), tmp_path)
    model = make_llama()
    model.load_adapter(str(tmp_path))
    with pytest.raises(ValueError, match="only supported for LoRA"):
        model.load_adapter(str(tmp_path), hotswap=True, adapter_name="default")


def test_fields_of_lora_have_their_default_for_getattr_and_copies_are_copies() -> None:
    settings = config()
    assert getattr(settings, "layer_replication", "none") == "none"
    assert not hasattr(settings, "target_parameters")
    with pytest.raises(AttributeError, match="'MultiLoraConfig' object has no attribute 'lay'"):
        settings.lay  # noqa: B018
    for twin in (copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert twin == settings
    assert "use_rslora" not in settings.to_dict()
