from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import PreTrainedModel, Trainer

from multilora import InputError, MultiLoraConfig, param_groups
from multilora.tuner.optimizer import scaling_parameters


def groups_of(model: torch.nn.Module, ratio: float = 8.0) -> list[dict]:
    return param_groups(model, 1e-3, weight_decay=0.1, scaling_lr_ratio=ratio)


@pytest.mark.parametrize("scaling", ["vector", "scalar"])
def test_the_scale_has_no_decay_and_its_own_rate(make_llama: Callable[..., PreTrainedModel], scaling: str) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, num_loras=2, scaling=scaling))
    adapter, scale = groups_of(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("multilora_scaling" in names[id(parameter)] for parameter in scale["params"])
    assert len(scale["params"]) == 14  # seven linear layers in two blocks
    assert (scale["weight_decay"], scale["lr"]) == (0.0, pytest.approx(8e-3))
    assert (adapter["weight_decay"], adapter["lr"]) == (0.1, 1e-3)
    assert len(adapter["params"]) == 28


@pytest.mark.parametrize("scaling", ["vector", "none"])
def test_every_trainable_parameter_is_in_exactly_one_group(
    make_gpt2: Callable[..., PreTrainedModel], scaling: str
) -> None:
    model = get_peft_model(make_gpt2(), MultiLoraConfig(r=2, num_loras=2, scaling=scaling, bias="all"))
    grouped = [id(parameter) for group in groups_of(model) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for group in groups_of(model):
        for name, parameter in model.named_parameters():
            if any(parameter is other for other in group["params"]):
                assert group["weight_decay"] == (0.0 if "bias" in name or "scaling" in name else 0.1)


def test_scales_of_a_frozen_adapter_and_other_methods_are_left_alone(
    make_llama: Callable[..., PreTrainedModel],
) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2))
    model.add_adapter("second", MultiLoraConfig(r=2))
    assert len(scaling_parameters(model)) == 14
    assert scaling_parameters(get_peft_model(make_llama(), LoraConfig(target_modules="all-linear"))) == []
    (only,) = groups_of(get_peft_model(make_llama(), LoraConfig(target_modules="all-linear")))
    assert len(only["params"]) == 28


@pytest.mark.parametrize("config", [MultiLoraConfig(r=2), LoraConfig(r=2, target_modules="all-linear")])
def test_B_has_its_own_rate_if_asked(make_llama: Callable[..., PreTrainedModel], config: PeftConfig) -> None:
    model = get_peft_model(make_llama(), config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, 1e-3, b_lr_ratio=16, weight_decay=0.1)
    (of_B,) = [group for group in groups if group["lr"] == pytest.approx(1.6e-2)]
    assert len(of_B["params"]) == 14
    assert all("lora_B" in names[id(parameter)] for parameter in of_B["params"])
    assert of_B["weight_decay"] == 0.1
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())


def test_heads_and_a_model_without_adapters_are_grouped_as_the_trainer_does(
    make_llama: Callable[..., PreTrainedModel],
) -> None:
    head = get_peft_model(make_llama(), MultiLoraConfig(r=2, modules_to_save=["lm_head", "norm"]))
    for model in (head, make_llama()):
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        decayed = set(Trainer.get_decay_parameter_names(None, model))  # pyright: ignore - it does not use `self`
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = {group["weight_decay"]: [names[id(p)] for p in group["params"]] for group in groups_of(model, 1.0)[:1]}
        assert set(groups[0.1]) == {name for name in trained & decayed if "multilora_scaling" not in name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr must be a number of at least 0; got -1.0"),
        ({"lr": "1e-4"}, "lr must be a number of at least 0; got '1e-4'"),
        ({"weight_decay": float("nan")}, "weight_decay must be a number of at least 0; got nan"),
        ({"scaling_lr_ratio": 0}, "scaling_lr_ratio must be a number above 0; got 0"),
        ({"b_lr_ratio": True}, "b_lr_ratio must be a number above 0; got True"),
    ],
)
def test_numbers_out_of_range(
    make_llama: Callable[..., PreTrainedModel], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        param_groups(make_llama(), **({"lr": 1e-3} | arguments))


def test_a_model_in_which_nothing_is_trained_is_refused(make_llama: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(InputError, match="no parameter of the model is trained"):
        param_groups(make_llama().requires_grad_(False), 1e-3)
