"""The base model's modules without its weights: from its own configuration, or from the shape in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from multilora.errors import InputError, nearest
from multilora.recipe import ModelSection


def base_structure(section: ModelSection) -> tuple[nn.Module, str]:
    """The base model on the meta device, and where its shape is from: "config.json" or "model.shape".

    The model's own configuration is preferred. With `model.shape` in the recipe the hub is not asked for one that was
    not downloaded before.

    Raises:
        InputError: neither exists, the two contradict each other, or transformers cannot build the model.
    """
    config = _own_config(section)
    source = "model.shape" if config is None else "config.json"
    if config is None:
        assert section.shape is not None
        config = _config_of(section.shape)
    elif section.shape is not None:
        _check_agreement(section.shape, config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code), source
    except Exception as error:  # a shape that does not hold together fails anywhere in transformers
        raise InputError(f"model: cannot build {section.path!r} from its {source}: {_reason(error)}") from error


def _own_config(section: ModelSection) -> Any | None:
    """None where there is no model, and the recipe says its shape."""
    folder = Path(section.path).is_dir()
    try:
        return AutoConfig.from_pretrained(
            section.path,
            trust_remote_code=section.trust_remote_code,
            revision=section.revision,
            local_files_only=section.shape is not None,
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        if section.shape is not None and not folder:
            return None
        remedy = "" if section.shape is not None else "; without the model at hand, give its model.shape"
        raise InputError(
            f"model.path: cannot load the configuration of {section.path!r}: {_reason(error)}{remedy}"
        ) from error


def _config_of(shape: Mapping[str, Any]) -> Any:
    values = dict(shape)
    kind = values.pop("model_type")
    if kind not in CONFIG_MAPPING:
        raise InputError(f"model.shape.model_type: unknown to transformers: {kind!r}{nearest(kind, CONFIG_MAPPING)}")
    default = AutoConfig.for_model(kind)
    for key in values:
        if not hasattr(default, key):
            raise InputError(f"model.shape.{key}: a {kind} model has no such value{nearest(key, vars(default))}")
    try:
        return AutoConfig.for_model(kind, **values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InputError(f"model.shape: no {kind} model has this shape: {_reason(error)}") from error


def _check_agreement(shape: Mapping[str, Any], config: Any) -> None:
    absent = object()
    for key, value in shape.items():
        own = getattr(config, key, absent)
        if own != value:
            said = "does not have it" if own is absent else f"says {own!r}"
            raise InputError(
                f"model.shape.{key}: {value!r}, and the model's own config.json {said}; correct it, or leave "
                "model.shape out: the model is at hand"
            )


def _reason(error: Exception) -> str:
    text = str(error).strip()
    # What a configuration refuses stands in the last of its lines; of others the first says what is wrong.
    line = text.rpartition("\n")[2] if isinstance(error, StrictDataclassError) else text.partition("\n")[0]
    return line.strip() or type(error).__name__
