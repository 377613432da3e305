"""Parameter groups for an optimizer: weight decay, and learning rates of their own for the learned scale and for B."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

from multilora.errors import InputError
from multilora.tuner.layer import MultiLoraLayer

# As transformers' Trainer has it: no weight decay on biases and on the weights of norms.
_NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def scaling_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable learned scales of a model's MultiLoRA layers, found by the layers' type."""
    layers = (module for module in model.modules() if isinstance(module, MultiLoraLayer))
    return [scale for layer in layers for scale in layer.multilora_scaling.parameters() if scale.requires_grad]


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    scaling_lr_ratio: float = 1.0,
    b_lr_ratio: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Every trainable parameter of a model in exactly one group, for any optimizer of torch's form.

        optimizer = torch.optim.AdamW(multilora.param_groups(model, 2e-4, weight_decay=0.01))

    Biases, weights of norms and the learned scale have no weight decay: the scale starts at zero and has to leave it.
    Modules in `modules_to_save` and trained biases are among the rest. Empty groups are left out.

    Args:
        model: a PEFT model, or any other; with adapters of MultiLoRA or LoRA, or none (full fine-tuning).
        lr: the learning rate.
        scaling_lr_ratio: the scale's learning rate is `lr` times this. 1 suits the default start; the paper's starts
            (`init_weights="gaussian"`) want about 30 at LoRA's learning rates.
        b_lr_ratio: the learning rate of B, of MultiLoRA and of LoRA, is `lr` times this (LoRA+, arXiv 2402.12354).
        weight_decay: of the parameters that have it.

    Raises:
        InputError: a number is out of range, or nothing in the model is trained.
    """
    for name, value in (("scaling_lr_ratio", scaling_lr_ratio), ("b_lr_ratio", b_lr_ratio)):
        if not _is_number(value) or value <= 0:
            raise InputError(f"{name} must be a number above 0; got {value!r}")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not _is_number(value) or value < 0:
            raise InputError(f"{name} must be a number of at least 0; got {value!r}")
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model is trained. Add an adapter, or load it with is_trainable=True")
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NOT_DECAYED))
    scales, Bs = _ids(scaling_parameters(model)), _ids(_B_parameters(model)) if b_lr_ratio != 1.0 else set[int]()
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    of_B: list[nn.Parameter] = []
    of_scale: list[nn.Parameter] = []
    for name, parameter in trainable:
        if id(parameter) in scales:
            of_scale.append(parameter)
        elif id(parameter) in Bs:
            of_B.append(parameter)
        else:
            (decaying if name in decayed else others).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": weight_decay, "lr": lr},
        {"params": others, "weight_decay": 0.0, "lr": lr},
        {"params": of_B, "weight_decay": weight_decay, "lr": lr * b_lr_ratio},
        {"params": of_scale, "weight_decay": 0.0, "lr": lr * scaling_lr_ratio},
    ]
    return [group for group in groups if group["params"]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    return {id(parameter) for parameter in parameters}


def _B_parameters(model: nn.Module) -> list[nn.Parameter]:
    """B of every adapter of MultiLoRA and of PEFT's LoRA."""
    found: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, MultiLoraLayer):
            found += module.multilora_B.parameters()
        elif isinstance(module, LoraLayer):
            found += [*module.lora_B.parameters(), *module.lora_embedding_B.parameters()]
    return found
