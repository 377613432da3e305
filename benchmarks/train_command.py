"""The whole of `multilora train`, bf16 base: MultiLoRA beside LoRA of equal rank, the same recipe otherwise.

python -m benchmarks.train_command
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks import common
from multilora.bench import machine, rounds
from multilora.miniature.folder import write_miniature

RECIPE = Path(__file__).parent.parent / "recipes" / "miniature.yaml"
TARGET = 1.10  # tokens per second over LoRA's, at least
MULTILORA, LORA = "multilora", "lora"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.d, options.layers, options.batch, options.length, options.steps, options.r = 64, 2, 2, 64, 3, 4
        options.repeats = 1
    console = common.console()
    record = common.start_record("train_command", options)
    common.print_head(console, record)
    methods: dict[str, dict[str, Any]] = {
        LORA: {"name": "lora", "r": options.num_loras * options.r, "target_modules": "all-linear"},
        MULTILORA: {
            "name": "multilora",
            "r": options.r,
            "num_loras": options.num_loras,
            "target_modules": "all-linear",
        },
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_miniature(folder)
        _write_model(folder, options)
        for name, method in methods.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(_recipe(folder, method, options)))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
        order, drawn = list(methods), random.Random(0)
        with machine.Load() as load:
            for _ in range(options.repeats):
                drawn.shuffle(order)
                for name in order:
                    runs[name].append(_train(folder, name, options.threads))
    ratios = {
        figure: [m[figure] / r[figure] for m, r in zip(runs[MULTILORA], runs[LORA], strict=True)]
        for figure in ("tokens_per_second", "settled_tokens_per_second")
    }
    record["groups"].append(
        {
            "name": "train_command",
            "rank": options.num_loras * options.r,
            "samples": runs,
            "ratios": {figure: {**rounds.summary(values), "samples": values} for figure, values in ratios.items()},
            "load": load.facts,
        }
    )
    console.print(_table(record["groups"][0], options))
    if not options.quick:
        value = record["groups"][0]["ratios"]["tokens_per_second"]["median"]
        met = value >= TARGET
        record["targets"] = [
            {"figure": "speed over LoRA", "value": value, "target": f">= {TARGET}", "met": met},
        ]
        common.show_targets(console, record)
    common.finish(console, record, options.output)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = common.shape_parser((__doc__ or "").splitlines()[0], d=1024, layers=4, repeats=3)
    add = parser.add_argument
    add("--batch", type=int, default=2, help="packed rows in a batch")
    add("--length", type=int, default=512, help="tokens of a packed row")
    add("--steps", type=int, default=20, help="optimizer steps of one run")
    return parser


def _write_model(folder: Path, options: argparse.Namespace) -> None:
    """A random Llama in bf16 with the miniature's tokenizer."""
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    torch.manual_seed(0)
    heads = max(options.d // 64, 1)
    config = LlamaConfig(
        hidden_size=options.d,
        intermediate_size=options.d * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=len(tokenizer),
        max_position_embeddings=options.length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder / "large")
    tokenizer.save_pretrained(str(folder / "large"))


def _recipe(folder: Path, method: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "extends": str(RECIPE),
        "model": str(folder / "large"),
        "method": method,
        "validation": None,
        "training": {
            "output": str(folder / "run"),
            "steps": options.steps,
            "batch_size": options.batch,
            "max_length": min(64, options.length),
            "packing": True,
            "packed_length": options.length,
            "precision": "bf16",
            "save_every": options.steps,
            "log_every": 1,
        },
    }


def _train(folder: Path, name: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "multilora_cli.main", "train", str(folder / f"{name}.yaml")]
    environment = {
        **os.environ,
        "MINIATURE": str(folder),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    began = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    run = folder / "run"
    results = json.loads((run / "results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run)
    return {
        "tokens_per_second": results["tokens_per_second"],
        "settled_tokens_per_second": median(line["tokens_per_second"] for line in lines[len(lines) // 4 :]),
        "final_loss": results["final_loss"],
        "trainable_parameters": results["parameters"]["trainable"],
        "peak_memory_bytes": results["peak_memory_bytes"],
        "whole_seconds": seconds,
    }


def _table(group: dict[str, Any], options: argparse.Namespace) -> Table:
    tokens = options.batch * options.length
    table = Table(
        title=f"multilora train, Llama-shaped, d = {options.d}, {options.layers} layers, {tokens} tokens a step, bf16 "
        f"base, fp32 adapters; {options.steps} steps, medians of {options.repeats} runs",
        title_justify="left",
    )
    for column in ("", "tokens/s of the run", "of its later steps", "peak memory, MB", "command, s", "final loss"):
        table.add_column(column, justify="left" if not column else "right")
    labels = {LORA: f"LoRA, rank {group['rank']}", MULTILORA: f"MultiLoRA {options.num_loras} x {options.r}"}
    for name, found in group["samples"].items():
        middle = {key: median(run[key] for run in found) for key in found[0]}
        table.add_row(
            labels[name],
            f"{middle['tokens_per_second']:,.0f}",
            f"{middle['settled_tokens_per_second']:,.0f}",
            f"{middle['peak_memory_bytes'] / 1e6:,.0f}",
            f"{middle['whole_seconds']:.1f}",
            f"{middle['final_loss']:.3f}",
        )
    table.add_row(
        "MultiLoRA over LoRA",
        *(f"{group['ratios'][key]['median']:.3f}" for key in ("tokens_per_second", "settled_tokens_per_second")),
        "",
        "",
        "",
    )
    return table


if __name__ == "__main__":
    main()
