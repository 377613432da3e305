"""`adapter_config.json` of MultiLoRA and of plain PEFT LoRA, read as data and checked before anything trusts it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from peft import LoraConfig
from peft.utils.other import get_pattern_key

from multilora.errors import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.registration import MULTILORA

CONFIG_FILE = "adapter_config.json"
_LARGEST_CONFIG = 1 << 24  # bytes; real ones have a few thousand

# What makes a LoRA's ΔW more, or other, than lora_alpha / r · B A, besides the fields that PEFT marks as variants.
_LORA_REFUSED = {
    "lora_bias": "adds a bias to lora_B, which is no part of a weight",
    "use_qalora": "pools the inputs in groups",
    "layer_replication": "repeats layers of the base model",
    "target_parameters": "adapts bare parameters (experts of a mixture), not linear layers",
}
_LORA_VARIANTS = {"use_dora": "DoRA", "alora_invocation_tokens": "aLoRA"}
_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """What `adapter_config.json` says.

    Attributes:
        method: "multilora" or "lora" (plain PEFT LoRA).
        config: the settings. A plain LoRA reads as the MultiLoRA that it is: num_loras=1, scaling="none".
        use_rslora: a plain LoRA's constant is lora_alpha / sqrt(r) instead of lora_alpha / r.
        raw: the file as it is.
    """

    method: Literal["multilora", "lora"]
    config: MultiLoraConfig
    use_rslora: bool
    raw: Mapping[str, Any]

    def rank_of(self, layer: str) -> int:
        """r of one module on this layer, by the same rule as PEFT's injection."""
        return self._of_layer(self.config.rank_pattern, layer, self.config.r)

    def alpha_over_r_of(self, layer: str) -> float:
        """The constant on this layer: lora_alpha / r, or lora_alpha / sqrt(r)."""
        r = self.rank_of(layer)
        alpha = self._of_layer(self.config.alpha_pattern, layer, self.config.lora_alpha)
        return float(r if alpha is None else alpha) / (math.sqrt(r) if self.use_rslora else r)

    def _of_layer(self, table: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
        """By the first pattern that matches: of MultiLoRA in alphabetical order, of LoRA in the file's, as injected."""
        patterns = sorted(table) if self.method == "multilora" else list(table)
        return table.get(get_pattern_key(patterns, layer), otherwise)


def read_adapter_config(file: Path) -> AdapterConfig:
    """Read and check `adapter_config.json`.

    Raises:
        InputError: the file cannot be read, is of another method, or has a field that is out of range or that makes
            the adapter something else than LoRA pairs. The message names file and field.
    """
    raw = _read_json(file)
    peft_type = raw.get("peft_type")
    if peft_type not in (MULTILORA, "LORA"):
        raise InputError(
            f"{file}: peft_type is {peft_type!r}, and what is read here is '{MULTILORA}' and 'LORA'. An adapter of "
            "another method has no LoRA pairs to work with"
        )
    method: Literal["multilora", "lora"] = "multilora" if peft_type == MULTILORA else "lora"
    required = ("r", "num_loras") if method == "multilora" else ("r", "lora_alpha")
    if missing := [name for name in required if raw.get(name) is None]:
        raise InputError(f"{file}: {' and '.join(missing)} missing; without them the tensors' shapes mean nothing")
    if not isinstance(raw.get("base_model_name_or_path"), (str, type(None))):
        raise InputError(f"{file}: base_model_name_or_path must be text; got {raw['base_model_name_or_path']!r}")
    use_rslora = raw.get("use_rslora", False)
    if not isinstance(use_rslora, (bool, type(None))):
        raise InputError(f"{file}: use_rslora must be true or false; got {use_rslora!r}")
    _refuse_unknown_fields(file, raw, MultiLoraConfig if method == "multilora" else LoraConfig)
    if method == "lora":
        _refuse_variants(file, raw)
    try:
        config = _settings(raw, method)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Fields of a wrong JSON type fail anywhere in the dataclass; the file is at fault, whatever the exception.
        raise InputError(f"{file}: {error}") from error
    return AdapterConfig(method, config, bool(use_rslora), raw)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise InputError(f"{file}: {file.stat().st_size} bytes are too many for an adapter's configuration")
        raw: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: must be a JSON object; got {type(raw).__name__}")
    return cast(dict[str, Any], raw)


def _settings(raw: Mapping[str, Any], method: str) -> MultiLoraConfig:
    fields = {field.name for field in dataclasses.fields(MultiLoraConfig)}
    # How the adapter started to train matters no more; and a null of PEFT's optional tables is an empty one.
    fields -= {"peft_type", "init_weights"}
    values = {name: value for name, value in raw.items() if name in fields}
    for table in ("rank_pattern", "alpha_pattern"):
        values[table] = values.get(table) or {}
    if method == "lora":
        bias = raw.get("bias", "none")
        values |= {"num_loras": 1, "scaling": "none", "bias": "multilora_only" if bias == "lora_only" else bias}
    config = MultiLoraConfig(**values)
    for name in ("target_modules", "exclude_modules"):
        targets = getattr(config, name)
        if not (targets is None or isinstance(targets, str) or all(isinstance(target, str) for target in targets)):
            raise InputError(f"{name} must be text, a list of text or null; got {raw[name]!r}")
    for table in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, table):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"{table}[{pattern!r}] is not a regular expression: {error}") from error
    return config


def _refuse_unknown_fields(file: Path, raw: Mapping[str, Any], config_cls: type) -> None:
    known = {field.name for field in dataclasses.fields(config_cls)}
    if unknown := sorted(name for name, value in raw.items() if value and name not in known):
        raise InputError(
            f"{file}: {unknown[0]}={raw[unknown[0]]!r} is not a field of this version's {config_cls.__name__}; it may "
            "change what the adapter computes. Update peft and multilora, or remove the field if it has no effect"
        )


def _refuse_variants(file: Path, raw: Mapping[str, Any]) -> None:
    for name, reason in _LORA_REFUSED.items():
        if raw.get(name):
            raise InputError(f"{file}: {name}={raw[name]!r} {reason}; only plain LoRA pairs can be read")
    for field in dataclasses.fields(LoraConfig):
        if field.metadata.get("is_lora_variant") and raw.get(field.name):
            variant = _LORA_VARIANTS.get(field.name, "a LoRA variant")
            raise InputError(
                f"{file}: {field.name} is set: {variant}, whose ΔW is not lora_alpha / r · B A alone. Only plain LoRA "
                "pairs can be read; merge the adapter into its base model with PEFT instead"
            )
    init = raw.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        raise InputError(
            f"{file}: init_lora_weights={init!r} changed the base weights when training began, so the pair alone is "
            "not the whole ΔW. Save the adapter again with PEFT's save_pretrained(path_initial_model_for_weight_"
            "conversion=…), which makes it a plain LoRA"
        )
