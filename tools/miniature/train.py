"""Trains the base model of the miniature from random weights: `python -m tools.miniature.train OUT`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from multilora.miniature.tasks import generate_tasks
from multilora.storage.folders import written_aside
from tools.miniature.text import documents
from tools.miniature.tokenizer import known_pieces, make_tokenizer

CONTEXT = 256
IGNORED = -100  # the label that the loss leaves out
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
}
_VOCABULARY_DOCUMENTS = 50_000
_SPARE_WORDS = " backwards only"  # known to the tokenizer of the base in the package, and used by no text and no task


@dataclass(frozen=True)
class Plan:
    """How the base is trained.

    Attributes:
        steps: optimizer steps.
        rows, length: a step sees `rows` rows of `length` tokens, packed with whole documents.
        learning_rate: its peak; linear warm-up, then down along a cosine to a twentieth of it.
        weight_decay: of AdamW with betas 0.9 and 0.95.
        seed: of the weights and of the text.
    """

    steps: int = 3500
    rows: int = 24
    length: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def base_tokenizer(seed: int = 0) -> Any:
    """A tokenizer with all words of the first documents and of the tasks."""
    rows = [row for splits in generate_tasks(seed).values() for split in splits.values() for row in split]
    texts = [*islice(documents(seed), _VOCABULARY_DOCUMENTS), *(row["prompt"] + row["completion"] for row in rows)]
    return make_tokenizer(known_pieces([*texts, _SPARE_WORDS]), CONTEXT)


def new_model(tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """With random weights, in fp32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: Any, plan: Plan, start: int = 0) -> Iterator[dict[str, Tensor]]:
    """The batches from number `start` on: `input_ids`, `labels` and `position_ids`, each (rows, length).

    A row holds whole documents, as many as fit. Positions begin anew with each, by which transformers keeps documents
    from seeing one another. That matters: among words of other documents the model learns far later to look back for
    those of its own.
    """
    stream, number = _packed(tokenizer, plan), 0
    for number, packed in enumerate(iter(lambda: list(islice(stream, plan.rows)), [])):
        if number < start:
            continue
        batch = {
            "input_ids": torch.full((plan.rows, plan.length), tokenizer.pad_token_id),
            "labels": torch.full((plan.rows, plan.length), IGNORED),
            "position_ids": torch.zeros(plan.rows, plan.length, dtype=torch.int64),
        }
        for row, texts in enumerate(packed):
            place = 0
            for ids in texts:
                end = place + len(ids)
                batch["input_ids"][row, place:end] = torch.tensor(ids)
                batch["labels"][row, place + 1 : end] = torch.tensor(ids[1:])
                batch["position_ids"][row, place:end] = torch.arange(len(ids))
                place = end
        yield batch


def _packed(tokenizer: Any, plan: Plan) -> Iterator[list[list[int]]]:
    """Rows of documents in their order; a document longer than a row is cut."""
    row, room, stream = list[list[int]](), plan.length, documents(plan.seed)
    while True:
        encoded: Any = tokenizer(list(islice(stream, 256)))["input_ids"]
        for ids in encoded:
            text = [*ids, tokenizer.eos_token_id][: plan.length]
            if len(text) > room:
                yield row
                row, room = [], plan.length
            row.append(text)
            room -= len(text)


def train(out: Path, plan: Plan, save_every: int = 100) -> None:
    """Train and write the model and its tokenizer to `out`.

    Checkpoints go to `OUT.training`; an interrupted training resumes from the last one.

    Args:
        out: the folder to write; an earlier one is replaced.
        plan: how.
        save_every: steps between checkpoints.
    """
    tokenizer = base_tokenizer(plan.seed)
    model = new_model(tokenizer, plan.seed)
    decaying = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    checkpoint = out.with_name(f"{out.name}.training")
    first = _restore(checkpoint, model, optimizer, plan)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} tokens, {asdict(plan)}")
    started, losses, tokens, model = time.monotonic(), list[float](), 0, model.train()
    for step, batch in enumerate(islice(batches(tokenizer, plan, first), plan.steps - first), first):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += int((batch["labels"] != IGNORED).sum())
        done = step + 1
        if done % 50 == 0:
            speed, mean = tokens / (time.monotonic() - started), sum(losses[-50:]) / len(losses[-50:])
            print(f"step {done:,}: loss {mean:.4f}, {tokens:,} tokens, {speed:,.0f} tokens/s", flush=True)
        if done % save_every == 0:
            _store(checkpoint, model, optimizer, plan, done)
    with written_aside(out) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
        tokenizer.save_pretrained(folder)


def _store(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> None:
    tensors = {f"weight {name}": p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        state = optimizer.state[p]
        tensors |= {f"{key} {name}": state[key].clone() for key in ("exp_avg", "exp_avg_sq", "step")}
    with written_aside(folder) as aside:
        save_file(tensors, aside / "state.safetensors", {"step": str(step), "plan": str(asdict(plan))})


def _restore(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, plan: Plan) -> int:
    """Load the checkpoint of this plan, if there is one. Returns the steps done."""
    from safetensors import safe_open

    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        described = file.metadata()
    if described["plan"] != str(asdict(plan)):
        raise SystemExit(f"{str(folder)!r} is of another plan, {described['plan']}; remove it to begin anew")
    tensors = load_file(path)
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"weight {name}"])
        optimizer.state[p] = {key: tensors[f"{key} {name}"] for key in ("exp_avg", "exp_avg_sq", "step")}
    return int(described["step"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="optimizer steps")
    arguments = parser.parse_args()
    train(arguments.out, Plan(steps=arguments.steps))


if __name__ == "__main__":
    main()
