"""Base models and adapters for tests of merging, and what a merge must not touch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adapter_files import load, logits, save_adapter
from multilora import MultiLoraConfig
from multilora.storage.folders import aside_of

Config = MultiLoraConfig | LoraConfig


def save_llama(folder: Path, *, shard: str = "60KB", dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """A random Llama of 44,000 parameters in several shards."""
    torch.manual_seed(0)
    shape: dict[str, object] = {
        "vocab_size": 67,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
    }
    LlamaForCausalLM(LlamaConfig(**(shape | changes))).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def multilora(**arguments: object) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "init_weights": False} | arguments))


def save_adapter_of(base: Path, folder: Path, config: Config) -> Path:
    save_adapter(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder, config)
    return folder


def adapted_logits(base: Path, *adapters: Path) -> Tensor:
    """Of PEFT's model with all adapters active."""
    model = load(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapters[0])
    for index, adapter in enumerate(adapters[1:]):
        model.load_adapter(str(adapter), adapter_name=f"more{index}")
    if len(adapters) > 1:
        model.base_model.set_adapter(list(model.peft_config))
    return logits(model.eval())


def merged_logits(folder: Path) -> Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def deltas(base: Path, adapter: Path) -> dict[str, Tensor]:
    """ΔW in the stored layout by the weight's name, as PEFT's layers compute it."""
    model: PeftModel = load(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def tensors(folder: Path) -> dict[str, Tensor]:
    """All of a model's tensors."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def contents(folder: Path) -> Mapping[str, str]:
    """A digest of every file by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def assert_no_model(out: Path) -> None:
    """Neither the output folder nor what was left of it looks like a model."""
    assert not out.exists()
    if (aside := aside_of(out)).exists():
        assert not (aside / "config.json").exists()
        assert not list(aside.glob("*.index.json"))
        assert not list(aside.glob("*.part"))
