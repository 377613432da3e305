"""Parameter groups for the optimizer: weight decay and the learned scale's own learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from multilora.tuner.layer import MultiLoraLayer


def scaling_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable learned scales of a model's MultiLoRA layers, found by the layers' type."""
    layers = (module for module in model.modules() if isinstance(module, MultiLoraLayer))
    return [scale for layer in layers for scale in layer.multilora_scaling.parameters() if scale.requires_grad]


def optimizer_groups(
    model: nn.Module, decaying: Iterable[str], learning_rate: float, weight_decay: float, scaling_lr_ratio: float
) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group.

    The learned scale starts at zero and has to leave it, so weight decay is off for it, and its learning rate is
    `scaling_lr_ratio` times the others'. Empty groups are left out.

    Args:
        model: the model, adapters included.
        decaying: names of the parameters that weight decay is for; scales among them are left out.
        learning_rate: of all parameters but the scale.
        weight_decay: of the decaying parameters.
        scaling_lr_ratio: the scale's learning rate as a multiple.
    """
    scales = {id(scale) for scale in scaling_parameters(model)}
    decaying = set(decaying)
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    others = [(name, parameter) for name, parameter in trainable if id(parameter) not in scales]
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for name, parameter in others if name in decaying],
            "weight_decay": weight_decay,
            "lr": learning_rate,
        },
        {
            "params": [parameter for name, parameter in others if name not in decaying],
            "weight_decay": 0.0,
            "lr": learning_rate,
        },
        {
            "params": [parameter for _, parameter in trainable if id(parameter) in scales],
            "weight_decay": 0.0,
            "lr": learning_rate * scaling_lr_ratio,
        },
    ]
    return [group for group in groups if group["params"]]
