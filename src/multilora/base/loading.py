"""A base model and its tokenizer from a folder or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from multilora.base.quantization import bitsandbytes_config, refuse_requantising, require_bitsandbytes
from multilora.base.structure import model_folder
from multilora.errors import InputError
from multilora.recipe import FullMethod, LoraMethod, ModelSection, MultiLoraMethod, QuantizationSection
from multilora.tuner.quantizers import prepare

Method = MultiLoraMethod | LoraMethod | FullMethod


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: an absolute path of a folder, or a hub id, with how to load it."""

    location: str
    options: dict[str, Any]
    quantization: QuantizationSection | None = None

    @classmethod
    def find(cls, section: ModelSection) -> ModelSource:
        """Tell a folder from a hub id, without asking the hub.

        Raises:
            InputError: a folder that is not there, or that holds no model.
        """
        try:
            folder = model_folder(section.path)
        except InputError as error:
            raise InputError(f"model.path: {error}") from error
        trusted = {"trust_remote_code": section.trust_remote_code}
        if folder is not None:
            return cls(str(folder.resolve()), trusted, section.quantization)
        return cls(section.path, {**trusted, "revision": section.revision}, section.quantization)

    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            InputError: it is absent or cannot be read.
        """
        return self._load("tokenizer", AutoTokenizer)

    def check_config(self) -> None:
        """The model's configuration is there and readable: cheap, and the first that needs a hub.

        Raises:
            InputError: it is not; or the model is to be quantised and cannot be.
        """
        config = self._load("configuration", AutoConfig)
        if self.quantization is not None:
            require_bitsandbytes()
            refuse_requantising(self.quantization, config)

    def model(self, dtype: torch.dtype, empty: bool = False) -> Any:
        """The model with weights in `dtype`, but for those that are quantised.

        Args:
            dtype: of the weights.
            empty: leave it on the meta device; only names and shapes are read.

        Raises:
            InputError: it cannot be read, is no causal language model, lacks weights (which would be random), or cannot
                be quantised as the recipe says.
        """
        options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
        if empty:
            options["device_map"] = "meta"
        if self.quantization is not None:
            self.check_config()
            options["quantization_config"] = bitsandbytes_config(self.quantization, dtype, self._structure())
        model, info = self._load("model", AutoModelForCausalLM, **options)
        prepare(model)
        lacking = sorted(info["missing_keys"]) or sorted(str(key) for key in info["mismatched_keys"])
        if lacking:
            raise InputError(
                f"model.path: {self.location!r} lacks {len(lacking)} weights that {type(model).__name__} needs, such "
                f"as {lacking[0]!r}; is it a causal language model, and complete?"
            )
        return model

    def _structure(self) -> nn.Module:
        with torch.device("meta"):
            config = self._load("configuration", AutoConfig)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=self.options["trust_remote_code"])

    def _load(self, what: str, loader: Any, **options: Any) -> Any:
        try:
            return loader.from_pretrained(self.location, **self.options, **options)
        # Missing, unfit and broken files, and packages that a model or its quantiser needs. (The hub's library has its
        # own class for a config.json with a wrong type.)
        except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"model.path: cannot load the {what} of {self.location!r}: {reason}") from error


def weights_dtype(method: Method, precision: str) -> torch.dtype:
    """The base weights' dtype. Weights that are trained stay fp32 (full fine-tuning in bf16 is autocast's part)."""
    return torch.bfloat16 if precision == "bf16" and not isinstance(method, FullMethod) else torch.float32
