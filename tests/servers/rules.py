"""What servers demand of a plain LoRA, and what they compute from it, after their sources; nothing of ours is used.

vLLM 0.33: `vllm/lora/peft_helper.py`, `lora_model.py`, `config/lora.py`. SGLang 0.5.23: `sglang/srt/lora/lora.py`,
`lora_config.py`, `utils.py`, `mem_pool.py`. llama.cpp as in llama-cpp-python 0.3.36:
`convert_lora_to_gguf.py`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.floating]
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}


class RefusedError(Exception):
    """The server's error."""


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def _pairs(tensors: dict[str, Array]) -> dict[str, dict[str, Array]]:
    pairs: dict[str, dict[str, Array]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.(lora_[AB])\.weight", key)
        if not match:
            raise RefusedError(f"unsupported LoRA weight {key}")
        pairs.setdefault(match[1], {})[match[2]] = tensor
    return pairs


def vllm(folder: Path, max_lora_rank: int) -> dict[str, Array]:
    """ΔW by layer. The flag takes VLLM_RANKS alone; Llama's layers are the ones that take an adapter.

    Rank and alpha patterns are ignored, as they were by versions of 2025; 0.33 reads them.
    """
    assert max_lora_rank in VLLM_RANKS
    config, tensors = _read(folder)
    for field in ("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication"):
        if config.get(field):
            raise RefusedError(field)
    if isinstance(config.get("init_lora_weights"), str) or config.get("bias", "none") != "none":
        raise RefusedError("init_lora_weights or bias")
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    if max(ranks) > max_lora_rank:
        raise RefusedError(f"rank {max(ranks)} is greater than max_lora_rank {max_lora_rank}")
    pairs = _pairs(tensors)
    if strange := {name.rpartition(".")[2] for name in pairs} - _VLLM_LAYERS:
        raise RefusedError(f"expected target modules, received {strange}")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    return {name: scaling * pair["lora_B"] @ pair["lora_A"] for name, pair in pairs.items()}


def sglang(folder: Path) -> dict[str, Array]:
    """ΔW by layer: q, k, v and gate, up are stacked, and one rank and one constant hold for all layers."""
    config, tensors = _read(folder)
    if not isinstance(config["target_modules"], list):
        raise RefusedError("target_modules must be a list")
    if config.get("use_dora"):
        raise RefusedError("use_dora")
    r, scaling = config["r"], config["lora_alpha"] / config["r"]
    pairs = _pairs(tensors)
    for name, pair in pairs.items():
        block, _, ending = name.rpartition(".")
        if pair["lora_A"].shape[0] != r:
            raise RefusedError(f"LoRA buffer shape does not match weight shape {pair['lora_A'].shape}")
        if ending in ("q_proj", "k_proj", "v_proj") and not {f"{block}.q_proj", f"{block}.v_proj"} <= pairs.keys():
            raise RefusedError(f"{block} without q_proj or v_proj")
        if ending == "up_proj" and f"{block}.gate_proj" not in pairs:
            raise RefusedError(f"{block} without gate_proj")
    return {name: scaling * pair["lora_B"] @ pair["lora_A"] for name, pair in pairs.items()}


def llama_cpp(folder: Path) -> dict[str, Array]:
    """ΔW by layer: `lora_alpha` over the pair's own rank; nothing else of the configuration is read."""
    config, tensors = _read(folder)
    return {
        name: config["lora_alpha"] / pair["lora_B"].shape[1] * pair["lora_B"] @ pair["lora_A"]
        for name, pair in _pairs(tensors).items()
    }
