"""The modules of a base model from its configuration alone: on the meta device, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from multilora.errors import InputError, nearest

MODEL_CONFIG = "config.json"


def model_structure(model: str, *, local_files_only: bool = False) -> nn.Module:
    """The model's modules with parameters on the meta device, which take no memory.

    Args:
        model: a folder with `config.json`, or an id on the Hugging Face hub. No code that comes with it is run.
        local_files_only: of a hub id, look only at what was downloaded before.

    Raises:
        InputError: the folder or id does not exist, or transformers cannot build the model.
    """
    model_folder(model)
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=local_files_only, trust_remote_code=False)
        with torch.device("meta"):
            return _build(config)
    except Exception as error:  # a configuration that is missing, unknown or garbled fails anywhere in transformers
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"cannot build the model {model!r} from its configuration: {reason}") from error


def model_folder(model: str) -> Path | None:
    """The folder that `model` names; None where it is an id on the Hugging Face hub. The hub is not asked.

    Raises:
        InputError: a folder that is not there, or that holds no model.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / MODEL_CONFIG).is_file():
            adapter = (folder / "adapter_config.json").is_file()
            hint = ": it holds an adapter; name its base model" if adapter else ""
            raise InputError(f"the folder {model!r} holds no model: it has no config.json{hint}")
        return folder
    if _looks_like_a_path(folder, model):
        near = nearest(folder.name, (entry.name for entry in folder.parent.iterdir())) if folder.parent.is_dir() else ""
        raise InputError(f"no model folder {model!r}{near}")
    return None


def output_layer_name(model: nn.Module) -> str | None:
    """The name of the output layer, which target_modules="all-linear" leaves out; None without an output layer."""
    output = model.get_output_embeddings() if isinstance(model, transformers.PreTrainedModel) else None
    return next((name for name, module in model.named_modules() if module is output), None) if output else None


def _build(config: Any) -> nn.Module:
    """By the class that the configuration names, as its weights were saved; else by what transformers has for it."""
    for name in config.architectures or ():
        cls = getattr(transformers, name, None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls(config)
    known: Any = AutoModelForCausalLM._model_mapping
    return (AutoModelForCausalLM if type(config) in known else AutoModel).from_config(config)


def _looks_like_a_path(folder: Path, model: str) -> bool:
    """A hub id is NAME or OWNER/NAME; anything else, and anything under a folder that is there, is meant as a path."""
    beside = len(folder.parts) > 1 and folder.parent.is_dir()
    return folder.is_absolute() or model.startswith((".", "~")) or len(folder.parts) > 2 or beside
