from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Trainer

from multilora import MultiLoraConfig
from multilora.tuner.optimizer import optimizer_groups, scaling_parameters


def groups_of(model: torch.nn.Module, ratio: float = 8.0) -> list[dict]:
    decaying = Trainer.get_decay_parameter_names(None, model)  # pyright: ignore - it does not use `self`
    return optimizer_groups(model, decaying, learning_rate=1e-3, weight_decay=0.1, scaling_lr_ratio=ratio)


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
