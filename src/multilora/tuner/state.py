"""Between model and file: an adapter is loaded whole or not at all, and saved with the configuration that it has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from peft.config import PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from multilora.errors import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer

# What wrappers put into the names of a model's modules; the first two are not in the names of its state.
_NOT_IN_STATE = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_WRAPPERS = (*_NOT_IN_STATE, "base_model.model.", "_orig_mod.", "module.")


def layer_settings(config: MultiLoraConfig, layer: str) -> dict[str, Any]:
    """What a configuration says about one layer, by names of `MultiLoraLayer.update_layer`'s arguments.

    Of several patterns that match the first in alphabetical order counts: PEFT saves them in that order.

    Args:
        config: the configuration.
        layer: name in the base model.
    """
    return {
        "r": config.rank_pattern.get(get_pattern_key(sorted(config.rank_pattern), layer), config.r),
        "num_loras": config.num_loras,
        "lora_alpha": config.alpha_pattern.get(get_pattern_key(sorted(config.alpha_pattern), layer), config.lora_alpha),
        "scaling": config.scaling,
        "scaling_function": config.scaling_function,
        "scaling_constant": config.scaling_constant,
    }


def adapted_layers(model: nn.Module, adapter_name: str) -> list[tuple[str, MultiLoraLayer]]:
    """The layers that have the adapter, with their names in the base model, whatever the model is wrapped in."""
    return [
        (_without(name, _WRAPPERS), layer)
        for name, layer in model.named_modules()
        if isinstance(layer, MultiLoraLayer) and layer.has_adapter(adapter_name)
    ]


def warn_of_overlapping_patterns(config: MultiLoraConfig, layers: Sequence[str]) -> None:
    """Once for each table in which two patterns give a layer different values."""
    for field in ("rank_pattern", "alpha_pattern"):
        table: dict[str, Any] = getattr(config, field)
        for layer in layers:
            matching = [pattern for pattern in sorted(table) if get_pattern_key([pattern], layer) == pattern]
            if len({table[pattern] for pattern in matching}) > 1:
                warnings.warn(
                    f"{field}: {' and '.join(map(repr, matching))} match {layer!r} with different values; "
                    f"{matching[0]!r}, the first in alphabetical order, counts. Patterns that exclude each other say "
                    "it better",
                    stacklevel=4,
                )
                break


def check_state(model: nn.Module, config: PeftConfig, adapter_name: str, state: Mapping[str, Tensor]) -> None:
    """What is to be loaded is the adapter that the model has, whole.

    PEFT ignores tensors for which the model has no place, and leaves what is lacking as it is.

    Args:
        model: with the adapter's layers.
        config: the adapter's.
        adapter_name: its name.
        state: the tensors, by the model's own names where the model has a place for them.

    Raises:
        InputError: tensors of this method have no place in the model, or some of the adapter are lacking.
    """
    expected = _places(model, adapter_name)
    kinds = tuple(f".{kind}.weight" for kind in MultiLoraLayer.adapter_layer_names)
    # Untranslated keys end in the kind and `.weight`; translated ones have the adapter's name between.
    stray = sorted(key for key in state if key.endswith(kinds) and key not in expected)
    lacking = sorted(expected - state.keys())
    if not stray and not lacking:
        return
    base = config.base_model_name_or_path
    trained_on = f". It was trained on {base!r}" if base else ""
    if stray:
        raise InputError(
            f"adapter {adapter_name!r} does not fit this model, or its own adapter_config.json: {len(stray)} of "
            f"its tensors have no place in the model, such as {stray[0]!r}{trained_on}"
        )
    raise InputError(
        f"adapter {adapter_name!r} is not whole: of the {len(expected)} tensors that it has in this model "
        f"{len(lacking)} are lacking, such as {lacking[0]!r}{trained_on}. Load it into the model that it was trained "
        "on, under a name that is not in use; to load a part on purpose: model.load_state_dict(part, strict=False)"
    )


def check_function_of_old_keys(config: MultiLoraConfig, adapter_name: str) -> None:
    """Tensors by the names of the first version are of a linear scale with constant 1, which they cannot say.

    Raises:
        InputError: the configuration that they are loaded with is another one's.
    """
    if config.scaling != "none" and (config.scaling_function, config.scaling_constant) != ("linear", 1.0):
        raise InputError(
            f"adapter {adapter_name!r}: the tensors are from before the scale had a function, so it is linear with "
            f"constant 1; the configuration says scaling_function={config.scaling_function!r}, "
            f"scaling_constant={config.scaling_constant!r}. Load them with the adapter_config.json that they were "
            "saved with, or set scaling_function='linear' and scaling_constant=1"
        )


def check_config(model: nn.Module, config: MultiLoraConfig, adapter_name: str) -> None:
    """The configuration that is to be saved is the one that the adapter was made with.

    Raises:
        InputError: it was changed since in a field that decides shapes or ΔW.
    """
    for name, layer in adapted_layers(model, adapter_name):
        settings = layer_settings(config, name)
        r, alpha = settings["r"], settings["lora_alpha"]
        pairs = {
            "r": (layer.r[adapter_name], r),
            "num_loras": (layer.num_loras[adapter_name], settings["num_loras"]),
            "lora_alpha": (layer.lora_alpha[adapter_name], r if alpha is None else alpha),
            "scaling_function": (layer.scaling_function[adapter_name], settings["scaling_function"]),
            "scaling_constant": (layer.scaling_constant[adapter_name], settings["scaling_constant"]),
            "scaling": (layer.scaling_kind[adapter_name], settings["scaling"]),
        }
        for field, (own, said) in pairs.items():
            if own != said:
                raise InputError(
                    f"peft_config[{adapter_name!r}] was changed after the adapter was made: {field} is {said!r} there, "
                    f"and {own!r} in layer {name!r}, so what is saved could not be loaded. Put it back, or make an "
                    "adapter with the new configuration (add_adapter)"
                )


def _places(model: nn.Module, adapter_name: str) -> set[str]:
    """Names of the adapter's tensors in the model's state; of a module that the model has twice the first."""
    return {
        f"{_without(name, _NOT_IN_STATE)}.{kind}.{adapter_name}.weight".removeprefix(".")
        for name, layer in model.named_modules()
        if isinstance(layer, MultiLoraLayer)
        for kind in layer.adapter_layer_names
        if adapter_name in getattr(layer, kind)
    }


def _without(name: str, parts: Sequence[str]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name
