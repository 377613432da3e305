"""An adapter that a model in memory carries, as the folder that it would be saved as."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from multilora.adapter.file import PREFIX, WEIGHTS_FILE
from multilora.errors import InputError, nearest


@contextmanager
def adapter_folder(adapter: str | Path | nn.Module, adapter_name: str | None = None) -> Generator[Path]:
    """The folder of an adapter: the one that is named, or one of a model's adapters, saved for as long as this lasts.

    Args:
        adapter: a folder, or a model with adapters: a `PeftModel`, or a model that transformers or diffusers loaded
            an adapter into.
        adapter_name: which of the model's adapters; None: the active one.

    Raises:
        InputError: the model has no adapters, none of that name, or several are active and none is named; a name for
            a folder.
    """
    if not isinstance(adapter, nn.Module):
        if adapter_name is not None:
            raise InputError(
                f"adapter_name={adapter_name!r} is for a model with several adapters; a folder has one. Leave it out, "
                f"or name another folder than {str(adapter)!r}"
            )
        yield Path(adapter)
        return
    name = _name(adapter, adapter_name)
    with TemporaryDirectory() as folder:
        _save(adapter, name, Path(folder))
        yield Path(folder)


def _configs(model: Any) -> Mapping[str, PeftConfig]:
    configs = getattr(model, "peft_config", None)
    return cast(Mapping[str, PeftConfig], configs) if isinstance(configs, dict) else {}


def _name(model: Any, adapter_name: str | None) -> str:
    configs = _configs(model)
    if not configs:
        raise InputError(
            f"the {type(model).__name__} has no adapters; pass the PeftModel that get_peft_model returned, or the "
            "folder of a saved adapter (after merge_and_unload() the adapter is gone)"
        )
    if adapter_name is None:
        # By the layers: transformers has a method of that name, which asks for a later PEFT than there may be.
        holder = (
            model if isinstance(model, PeftModel) else next(m for m in model.modules() if isinstance(m, BaseTunerLayer))
        )
        names = list(holder.active_adapters)
        if len(names) != 1:
            raise InputError(
                f"{len(names)} adapters are active ({', '.join(map(repr, names))}); say which one: adapter_name=…, one "
                f"of {', '.join(map(repr, configs))}"
            )
        adapter_name = names[0]
    if adapter_name not in configs:
        raise InputError(
            f"adapter_name={adapter_name!r}: the model has {', '.join(map(repr, configs))}"
            f"{nearest(adapter_name, configs)}"
        )
    return adapter_name


def _save(model: nn.Module, name: str, folder: Path) -> None:
    """As `PeftModel.save_pretrained` does, for models without that method too, and without a folder per name."""
    state = get_peft_model_state_dict(model, adapter_name=name)
    if not isinstance(model, PeftModel):  # injected into the model itself, so that its names lack PEFT's prefix
        state = {PREFIX + key: value for key, value in state.items()}
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, folder / WEIGHTS_FILE)
    _configs(model)[name].save_pretrained(str(folder))
