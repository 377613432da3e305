"""Each task's loss is right however its examples are batched."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import TensorBoardCallback
from trl.trainer.utils import add_fused_lm_head

from multilora.recipe.file import load_recipe
from multilora.training.batches import IGNORED, TASK_IDS, Collator, PackedCollator
from multilora.training.run import train
from multilora.training.sft import SftTrainer
from multilora.training.task_losses import TaskLosses, by_task
from tiny_run import make_model, make_recipe, read_lines

Example = dict[str, Any]


def by_hand(model: PreTrainedModel, examples: Sequence[Example], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each example alone, with the model's own logits."""
    losses: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        ids = torch.as_tensor(example["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0].double()
        each = nn.functional.cross_entropy(logits[:-1], ids[1:].long(), reduction="none")
        losses[names[example["task"]]] += each[torch.as_tensor(example["loss_mask"][1:])].tolist()
    return {name: {"loss": sum(values) / len(values), "tokens": len(values)} for name, values in losses.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(make_model(tmp_path_factory.mktemp("model") / "model")).eval()


@pytest.fixture(scope="module")
def fused(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """The same model with the output layer that TRL's loss uses."""
    copy = AutoModelForCausalLM.from_pretrained(make_model(tmp_path_factory.mktemp("model") / "model")).eval()
    add_fused_lm_head(copy, outputs=("log_probs", "entropy", "is_top1"))
    return copy


def some_examples(rng: np.random.Generator, count: int, tasks: int = 3) -> list[Example]:
    lengths = rng.integers(2, 14, count)
    return [
        {
            "input_ids": rng.integers(3, 200, length),
            "loss_mask": np.arange(length) >= rng.integers(0, length),
            "task": int(rng.integers(tasks)),
        }
        for length in lengths
    ]


def assert_as(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name]["tokens"] == values["tokens"]
        assert found[name]["loss"] == pytest.approx(values["loss"], rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4))
def test_padded_packed_and_in_parts_are_each_example_alone(
    model: PreTrainedModel, fused: PreTrainedModel, seed: int, count: int, parts: int
) -> None:
    examples, names = some_examples(np.random.default_rng(seed), count), ["x", "y", "z"]
    expected = by_hand(model, examples, names)
    pieces = [piece for part in range(parts) if (piece := examples[part::parts])]
    batches = {
        "padded": [Collator(0)(piece) for piece in pieces],
        "packed": [PackedCollator(0, 14)([[example] for example in piece]) for piece in pieces],
        "packed together": [PackedCollator(0, 200)([piece, piece[::2]]) for piece in pieces],
    }
    for kind, parts_of_batch in batches.items():
        losses = TaskLosses(names)
        for batch in parts_of_batch:
            task_ids = batch.pop(TASK_IDS)
            with torch.no_grad():
                outputs = fused(**batch, use_cache=False, fused_lm_head=True)
            losses.add(outputs.log_probs, outputs.label_mask, task_ids)
        if kind == "packed together":  # every other example twice
            expected = by_hand(model, [*examples, *(e for piece in pieces for e in piece[::2])], names)
        assert_as(by_task(losses.taken()), expected)
        assert losses.taken() == {}  # a window begins anew


def test_gradients_of_packed_rows_are_those_of_padded_ones(fused: PreTrainedModel) -> None:
    examples = some_examples(np.random.default_rng(1), 8)
    batches = {
        "padded": Collator(0)(examples),
        "packed": PackedCollator(0, 40)([examples[:3], examples[3:6], examples[6:]]),
    }
    gradients: dict[str, dict[str, Tensor]] = {}
    for kind, batch in batches.items():
        del batch[TASK_IDS]
        fused.zero_grad()
        outputs = fused(**batch, use_cache=False, fused_lm_head=True)
        (-outputs.log_probs.sum() / (batch["labels"][:, 1:] != IGNORED).sum()).backward()
        gradients[kind] = {name: p.grad.clone() for name, p in fused.named_parameters() if p.grad is not None}
    assert gradients["padded"]
    for name, gradient in gradients["padded"].items():
        torch.testing.assert_close(gradients["packed"][name], gradient, atol=1e-6, rtol=1e-4)


# In a run ---------------------------------------------------------------------------------------------------------


def run(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    result = train(load_recipe(make_recipe(folder), overrides))
    return read_lines(result.folder / "metrics.jsonl")


@pytest.mark.parametrize("packing", [False, True])
def test_the_first_window_is_the_base_models_loss_by_task(
    tmp_path: Path, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    compute = SftTrainer.compute_loss

    def remembering(self: Any, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SftTrainer, "compute_loss", remembering)
    options = [f"training.packing={json.dumps(packing)}", "training.steps=1", "training.gradient_accumulation=3"]
    (line,) = run(tmp_path, *options, "training.batch_size=2")
    assert len(seen) == 3

    examples: list[Example] = []
    for batch in seen:
        assert ("position_ids" in batch) == packing != ("attention_mask" in batch)
        for ids, labels, tasks, *positions in zip(
            batch["input_ids"],
            batch["labels"],
            batch[TASK_IDS],
            *([batch["position_ids"]] if packing else []),
            strict=True,
        ):
            used = tasks >= 0
            first = (positions[0] == 0) & used if packing else torch.arange(len(ids)) == 0
            starts = [*first.nonzero().flatten().tolist(), int(used.sum())]
            for start, end in pairwise(starts):
                loss_mask = (labels[start:end] != IGNORED).numpy()
                examples.append({"input_ids": ids[start:end], "loss_mask": loss_mask, "task": int(tasks[start])})
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    expected = by_hand(base, examples, ["a", "b"])
    assert_as(line["tasks"], expected)
    tokens = sum(task["tokens"] for task in expected.values())
    assert line["loss"] == pytest.approx(
        sum(task["loss"] * task["tokens"] for task in expected.values()) / tokens, rel=1e-5
    )
    assert line["tokens"] == sum(len(example["input_ids"]) for example in examples)
    assert line["epoch"] == pytest.approx(len(examples) / 70)


def test_trackers_get_each_tasks_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the optional tensorboard is not installed")
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(TensorBoardCallback, "on_log", lambda *args, logs=None, **kwargs: logged.append(dict(logs)))
    lines = run(tmp_path, "training.report_to=[tensorboard]", "training.steps=4", "training.log_every=2")
    assert len(lines) == 2
    for line, logs in zip(lines, logged, strict=False):
        for name, task in line["tasks"].items():
            assert logs[f"loss/{name}"] == task["loss"]
            assert logs[f"tokens/{name}"] == task["tokens"]
    assert not any(key.startswith("loss/") for logs in logged[2:] for key in logs)  # the closing summary
