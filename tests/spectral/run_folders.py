"""Runs for tests, without training: adapters and changed models on one small base, in the folders of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from adapter_files import lora_config, save_adapter
from multilora import MultiLoraConfig
from multilora.recipe.file import load_recipe
from tiny_run import make_recipe

METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora@4": {"name": "lora", "r": 4},
    "multilora": {"name": "multilora", "r": 2, "num_loras": 2},
}


def save_full(base: Path, folder: Path, seed: int = 0, size: float = 0.05) -> Path:
    """A model that differs from the base everywhere."""
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def save_adapter_of(base: Path, folder: Path, config: MultiLoraConfig | LoraConfig) -> Path:
    save_adapter(AutoModelForCausalLM.from_pretrained(base), folder, config)
    return folder


def make_run(folder: Path, method: str, base: Path, recipe: Path, seed: int = 0) -> Path:
    """A finished run folder: its recipe and its weights."""
    data = load_recipe(recipe).resolved()
    data["model"] = str(base)
    data["method"] = METHODS[method]
    data["training"] |= {"seed": 100 + seed, "output": str(folder)}
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    if method == "full":
        save_full(base, folder / "model", seed)
    elif method == "lora@4":
        save_adapter_of(base, folder / "adapter", lora_config())
    else:
        save_adapter_of(base, folder / "adapter", MultiLoraConfig(r=2, num_loras=2, init_weights=False))
    return folder


def make_comparison(folder: Path, base: Path, scratch: Path, seeds: int = 2) -> Path:
    """A comparison folder with a cell for each of `METHODS` and each seed, and a trial that is no cell."""
    recipe = make_recipe(scratch)
    for method in METHODS:
        for seed in range(seeds):
            make_run(folder / "cells" / method.replace("@", "-") / "mixed" / f"seed-{seed}", method, base, recipe, seed)
    make_run(folder / "cells" / "full" / "trials" / "0.001", "full", base, recipe)
    (folder / "comparison.json").write_text("{}")
    (folder / "results.json").write_text(json.dumps({"methods": {method: {} for method in METHODS}}))
    return folder
