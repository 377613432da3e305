"""Two calls of PEFT that give a tuning method no say: how they do right by MultiLoRA.

Everything else goes through PEFT's own doors. Here PEFT itself is changed, for models with MultiLoRA adapters only,
when the first one is made. `PeftModel.load_adapter` reads no configuration for an adapter name that is in use, so the
new tensors would meet the old constants, and it leaves an adapter that it could not load in the model.
`peft.helpers.rescale_adapter_scale` looks for LoRA's layers by type.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch import nn

from multilora.errors import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.state import adapted_layers, layer_settings

# What a configuration says about a layer, and no tensor does.
_CONSTANTS = ("lora_alpha", "alpha_pattern", "rank_pattern", "scaling_function", "scaling_constant")


def change_peft_calls() -> None:
    """Change the two calls, once per process. PEFT is imported whole by the time that an adapter is made."""
    from peft import helpers
    from peft.peft_model import PeftModel
    from peft.tuners.lora import LoraLayer

    if getattr(PeftModel.load_adapter, "_of_multilora", False):
        return
    of_helpers: Any = helpers
    of_helpers.LoraLayer = (LoraLayer, MultiLoraLayer)  # for isinstance
    original = PeftModel.load_adapter

    @functools.wraps(original)
    def load_adapter(self: PeftModel, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        known = self.peft_config.get(adapter_name)
        if known is None:
            try:
                return original(self, model_id, adapter_name, *args, **kwargs)
            except InputError:  # of tensors that are not whole: the adapter was added before they were looked at
                if isinstance(self.peft_config.get(adapter_name), MultiLoraConfig):
                    self.delete_adapter(adapter_name)
                raise
        # `from_pretrained` has just added the adapter, by the configuration that it was given if it was given one.
        fresh = sys._getframe(1).f_code is PeftModel.from_pretrained.__func__.__code__
        if fresh or not isinstance(known, MultiLoraConfig):
            return original(self, model_id, adapter_name, *args, **kwargs)
        hub, _ = self._split_kwargs(dict(kwargs))
        said = _configuration(model_id, hub, adapter_name)
        _check_reload(self, adapter_name, said)
        result = original(self, model_id, adapter_name, *args, **kwargs)
        for name in _CONSTANTS:
            setattr(known, name, getattr(said, name))
        for name, layer in adapted_layers(self, adapter_name):
            settings = layer_settings(said, name)
            layer.set_constants(
                adapter_name, settings["lora_alpha"], settings["scaling_function"], settings["scaling_constant"]
            )
        return result

    changed: Any = load_adapter
    changed._of_multilora = True
    PeftModel.load_adapter = changed


def _configuration(folder: Any, hub: dict[str, Any], adapter_name: str) -> MultiLoraConfig:
    from peft.config import PeftConfig

    said = PeftConfig.from_pretrained(folder, **hub)
    if not isinstance(said, MultiLoraConfig):
        raise InputError(
            f"{str(folder)!r} is an adapter of {type(said).__name__}, and {adapter_name!r} is one of MultiLoRA. A "
            "model has adapters of one method: load it into the base model"
        )
    return said


def _check_reload(model: nn.Module, adapter_name: str, said: MultiLoraConfig) -> None:
    """A file of another configuration can be loaded in the place of an adapter if its tensors have the same shapes."""
    for name, layer in adapted_layers(model, adapter_name):
        if adapter_name in layer.merged_adapters:
            raise InputError(
                f"adapter {adapter_name!r} is merged, and unmerging would take the new ΔW out where the old one was "
                "put in. Call unmerge_adapter() first"
            )
        settings = layer_settings(said, name)
        own = {
            "r": layer.r[adapter_name],
            "num_loras": layer.num_loras[adapter_name],
            "scaling": layer.scaling_kind[adapter_name],
        }
        for field, value in own.items():
            if settings[field] != value:
                raise InputError(
                    f"adapter {adapter_name!r} has {field}={value!r} in layer {name!r}, and the file has "
                    f"{settings[field]!r}, so it cannot be loaded in its place. Call delete_adapter({adapter_name!r}) "
                    "first, or load it under another name"
                )
