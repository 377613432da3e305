"""A study for the page's tests: a comparison of two seeds with its analysis, made without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapter_files import change_tensors
from multilora.comparison.statistics import PairedTask, mean_over_seeds, paired_difference
from multilora.recipe.file import load_recipe
from multilora.spectral.analyze import AnalyzeOptions, analyze
from multilora.terminal import Silent
from spectral.run_folders import METHODS, make_comparison

TASKS = ("a", "b")
SEEDS = 2


def make_study(folder: Path) -> Path:
    """comparison/ with cells, results and figures of trainings; out/ with its analysis. Returns `folder`."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(folder / "base")
    comparison = make_comparison(folder / "comparison", folder / "base", folder, SEEDS)
    for number, method in enumerate(METHODS):
        for seed in range(SEEDS):
            cell = comparison / "cells" / method.replace("@", "-") / "mixed" / f"seed-{seed}"
            _finish(cell, number, seed)
            if method != "full" and seed:
                change_tensors(
                    cell / "adapter", lambda tensors: [t.mul_(torch.rand(t.shape)) for t in tensors.values()]
                )
    recipe = load_recipe(comparison / "cells/multilora/mixed/seed-0/recipe.yaml").determining()
    (comparison / "comparison.json").write_text(json.dumps({"recipe": recipe, "limit": None, "max_new_tokens": 16}))
    (comparison / "results.json").write_text(json.dumps(comparison_results()))
    analyze([str(comparison)], folder / "out", AnalyzeOptions(), Silent())
    return folder


def run_results(number: int = 0) -> dict[str, Any]:
    """A run's results.json."""
    counts = {
        "rows": 40,
        "kept": 38,
        "skipped": 2,
        "dropped": 0,
        "truncated": 0,
        "tokens": 400,
        "completion_tokens": 80,
    }
    return {
        "recipe_hash": "0" * 16,
        "method": "lora",
        "seed": 0,
        "epochs": None,
        "steps": 12,
        "final_loss": 2.0,
        "parameters": {"trainable": 1000 * (number + 1), "total": 10_000},
        "tokens": 4000,
        "seconds": 2.0,
        "tokens_per_second": 2000.0 - number,
        "peak_memory_bytes": 2**29,
        "peak_cuda_memory_bytes": None,
        "device": "cpu",
        "threads": 1,
        "processes": 1,
        "tasks": dict.fromkeys(TASKS, counts),
        "versions": {},
        "validation": {
            when: {"step": step, "general_text": {"loss": loss, "tokens": 8, "bits_per_character": loss}}
            for when, step, loss in (("before", 0, 2.0), ("after", 12, 2.125))
        }
        | {"best": None},
    }


def scored(value: float) -> dict[str, Any]:
    """An evaluation's results.json."""
    score = {"value": value, "standard_error": 0.1, "interval": [value - 0.2, value + 0.2], "count": 20}
    tasks = {task: {"metrics": {"accuracy": score}, "rows": 20, "scored": 20, "seconds": 1.5} for task in TASKS}
    how = {"split": "test", "limit": None, "batch_size": "auto", "on_long_prompt": "drop", "max_length": 128}
    model = {"model": "base", "revision": None, "adapter": None, "recipe_hash": None}
    where = {"max_new_tokens": 16, "dtype": "float32", "device": "cpu"}
    return {**model, **how, **where, "tasks": tasks, "versions": {}, "seconds": 3.0}


def comparison_results(methods: Sequence[str] = tuple(METHODS), seeds: int = SEEDS) -> dict[str, Any]:
    """A comparison's results.json, with figures drawn at random."""
    rng = np.random.default_rng(0)
    right = {method: rng.integers(2, size=(len(TASKS), seeds, 30)).astype(float) for method in methods}
    return {
        "recipe_hash": "0" * 16,
        "comparison_hash": "1" * 16,
        "limit": None,
        "methods": {
            method: {
                "section": METHODS.get(method, {"name": "lora", "r": 4}),
                "total_rank": None if method == "full" else 4,
                "learning_rates": [0.01],
                "trials": [],
                "chosen": None,
                "trainable_parameters": 1000 * (number + 1),
                "weights_bytes": 123_456,
                "tokens_per_second": 2000.0,
                "peak_memory_bytes": 2**29,
                "forgetting": asdict(mean_over_seeds([0.1 * number + 0.01 * seed for seed in range(seeds)])),
            }
            for number, method in enumerate(methods)
        },
        "regimes": {
            "mixed": {
                "metrics": dict.fromkeys(TASKS, "accuracy"),
                "scores": {method: _scores(of) for method, of in right.items()},
                "validation_losses": {},
                "differences": [_difference("multilora", "lora@4", right)] if "multilora" in methods else [],
            }
        },
    }


def _scores(right: Any) -> dict[str, Any]:
    of_tasks = right.mean(axis=2)  # (tasks, seeds)
    rows = dict(zip((*TASKS, "average"), (*of_tasks, of_tasks.mean(axis=0)), strict=True))
    return {name: asdict(mean_over_seeds([float(v) for v in values])) for name, values in rows.items()}


def _difference(method: str, minus: str, right: Mapping[str, Any]) -> dict[str, Any]:
    def pair(task: int) -> PairedTask:
        both = (np.stack([right[name][task], np.ones_like(right[name][task])], axis=-1) for name in (method, minus))
        return PairedTask(*both, lambda sums: sums[..., 0] / sums[..., 1])

    pairs = [pair(task) for task in range(len(TASKS))]
    found = {name: asdict(paired_difference([pair], draws=200)) for name, pair in zip(TASKS, pairs, strict=True)}
    found["average"] = asdict(paired_difference(pairs, draws=200))
    return {"method": method, "minus": minus, "seeds": right[method].shape[1], "tasks": found}


def _finish(cell: Path, number: int, seed: int) -> None:
    """What training and testing write beside the weights."""
    (cell / "results.json").write_text(json.dumps(run_results(number)))
    lines = (
        {
            "step": step,
            "tokens": 40 * step,
            "tokens_per_second": 9.5,
            "seconds": 4.0 * step,
            "loss": (4.5 + seed) / step + number,
            "tasks": {task: {"loss": (4.0 + seed) / step + number, "tokens": 10} for task in TASKS},
        }
        for step in range(1, 13)
    )
    (cell / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (cell / "eval-test").mkdir()
    (cell / "eval-test" / "results.json").write_text(json.dumps(scored(0.5 + 0.1 * number)))
