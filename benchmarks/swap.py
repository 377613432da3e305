"""How fast the one-word swap learns: MultiLoRA in LoRA's place, at LoRA's learning rates, on a real language model.

    python -m benchmarks.swap --model SMOLLM2 --data GSM8K_FOLDER --out results.jsonl lora@48 multilora@3x16 ...

Plain loop, fp32, AdamW with torch's defaults, a constant rate, gradients clipped at 1, two rows a step; the loss is of
all tokens of question and answer. Held out: rows of the test split. One line of JSON per run; a run that is in the file
already is not run again, so a study can be stopped and resumed.

A method is `lora@R` or `multilora@NxR`, with fields of the configuration after colons: multilora@3x16:scaling=scalar.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from multilora import MultiLoraConfig

LENGTH = 64  # tokens of a row; longer ones are cut
HELD_OUT = 24  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with GSM8K's train and test files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 2e-4, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 60, 300], help="where the loss is taken")
    args = parser.parse_args()
    done = {_key(json.loads(line)) for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    for seed in args.seeds:
        for rate in args.rates:
            for method in args.methods:
                wanted = {"method": method, "rate": rate, "seed": seed, "steps": sorted(args.steps)}
                if _key(wanted) not in done:
                    record = wanted | run(args.model, args.data, method, rate, seed, sorted(args.steps))
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(json.dumps(record), flush=True)


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record[name] for name in ("method", "rate", "seed", "steps")])


def config_of(method: str) -> peft.PeftConfig:
    """The configuration that a method's name means."""
    name, *fields = method.split(":")
    name, _, size = name.partition("@")
    values = {key: _value(value) for key, value in (field.split("=") for field in fields)}
    if name == "lora":
        return peft.LoraConfig(r=int(size), lora_alpha=int(size), target_modules="all-linear", **values)
    num_loras, r = map(int, size.split("x"))
    return MultiLoraConfig(r=r, num_loras=num_loras, **values)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(model_path: str, data: Path, method: str, rate: float, seed: int, steps: list[int]) -> dict[str, Any]:
    """Train once; the held-out loss at step 0 and at `steps`, in nats per token."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    model = peft.get_peft_model(base, config_of(method)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    held_out = [encoded(tokenizer, row) for row in rows(data, "test")[:HELD_OUT]]
    batches = _batches(tokenizer, rows(data, "train"), seed)
    losses = {0: _held_out(model, held_out)}
    start = time.process_time()
    for step in range(1, max(steps) + 1):
        loss = torch.zeros(())
        parts = next(batches)
        for ids in parts:
            loss = loss + model(input_ids=ids, labels=ids).loss / len(parts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step in steps:
            losses[step] = _held_out(model, held_out)
    return {"losses": losses, "cpu_seconds": round(time.process_time() - start)}


@torch.no_grad()
def _held_out(model: Any, held_out: list[Tensor]) -> float:
    model.eval()
    total = sum(float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in held_out)
    model.train()
    return total / sum(ids.shape[1] - 1 for ids in held_out)


def rows(data: Path, split: str) -> list[str]:
    """Question and answer of every row of a split."""
    files = sorted(data.rglob(f"*{split}*"))
    table = [row for file in files for row in _read(file)]
    return [f"{row['question']}\n{row['answer']}" for row in table]


def _read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    return [json.loads(line) for line in file.read_text().splitlines()]


def encoded(tokenizer: Any, text: str) -> Tensor:
    """(1, tokens)"""
    return tokenizer(text, return_tensors="pt").input_ids[:, :LENGTH]


def _batches(tokenizer: Any, texts: list[str], seed: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(texts), generator=generator).tolist()
        for i in range(0, len(order) - 1, 2):
            yield [encoded(tokenizer, texts[j]) for j in order[i : i + 2]]


if __name__ == "__main__":
    main()
