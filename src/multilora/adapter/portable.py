"""The form of a plain LoRA that PEFT of every age and every server reads: its `adapter_config.json`, its ranks.

SGLang and llama.cpp ignore rsLoRA and the rank and alpha patterns, and vLLM takes ranks up to one of a few numbers: so
one rank for all layers, a multiple of 16, and `lora_alpha` equal to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from multilora.adapter.file import AdapterFile
from multilora.base.structure import model_structure
from multilora.errors import InputError

RANK_MULTIPLE = 16
_VLLM_MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def portable_rank(rank: int) -> int:
    """The next multiple of 16."""
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


def vllm_max_lora_rank(rank: int) -> int | None:
    """The smallest value of vLLM's `--max-lora-rank` that takes this rank; None if every one is smaller."""
    return next((allowed for allowed in _VLLM_MAX_LORA_RANKS if allowed >= rank), None)


def portable_config(adapter: AdapterFile, rank: int) -> dict[str, Any]:
    """Only fields that PEFT has had for years: a newer one would stop older readers."""
    raw = adapter.adapter_config.raw
    targets, fan_in_fan_out = _targets(adapter)
    return {
        "alpha_pattern": {},
        "auto_mapping": raw.get("auto_mapping"),
        "base_model_name_or_path": raw.get("base_model_name_or_path"),
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": raw.get("revision"),
        "target_modules": targets,
        "task_type": raw.get("task_type"),
        "use_dora": False,
        "use_rslora": False,
    }


def _targets(adapter: AdapterFile) -> tuple[list[str], bool]:
    """`target_modules` that match the adapted layers and no other, sorted; and whether all of them are Conv1D.

    Short names ("q_proj") where it is certain that every module of this ending is adapted: because the adapter's own
    list says so, or because the base model's configuration is on this machine. Full names otherwise.

    PEFT's LoRA corrects `fan_in_fan_out` by itself when it sees the layer, with a warning; the flag only saves that.
    """
    modules = _base_modules(adapter)
    conv1d = [isinstance(modules.get(name), Conv1D) for name in adapter.layers]
    config = adapter.adapter_config.config
    own = config.target_modules
    if isinstance(own, set) and not config.exclude_modules and config.layers_to_transform is None:
        used = sorted(target for target in own if any(_matches(name, target) for name in adapter.layers))
        if len(used) < len(adapter.layers):
            return used, all(conv1d)
    if not adapter.layers.keys() <= modules.keys():
        return sorted(adapter.layers), False
    return exact_targets(adapter.layers, modules), all(conv1d)


def exact_targets(adapted: Collection[str], modules: Collection[str]) -> list[str]:
    """The shortest endings that match the adapted ones of a model's modules and no others, sorted.

    An ending that would have to name a block's number becomes the full name. (A list cannot tell a module "a.b" from
    another "x.a.b"; where only the former is adapted, the latter gets a LoRA whose ΔW is zero.)
    """
    others = {ending for name in modules if name not in adapted for ending in _endings(name)}
    return sorted({_shortest(name, others) for name in adapted})


def _base_modules(adapter: AdapterFile) -> Mapping[str, torch.nn.Module]:
    """The base model's modules by name; empty where its configuration is not on this machine."""
    base = adapter.adapter_config.raw.get("base_model_name_or_path")
    if not base:
        return {}
    try:
        return dict(model_structure(base, local_files_only=True).named_modules())
    except InputError:  # not here: the full names need no base model
        return {}


def _matches(name: str, target: str) -> bool:
    """PEFT's rule for a list of target_modules."""
    return name == target or name.endswith(f".{target}")


def _endings(name: str) -> list[str]:
    """'a.0.b' → 'b', '0.b', 'a.0.b'."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]


def _shortest(name: str, others: set[str]) -> str:
    """The shortest ending that no other module has, unless it would name a block's number; then the full name."""
    ending = next((ending for ending in _endings(name) if ending not in others), name)
    return name if any(part.isdecimal() for part in ending.split(".")) else ending
