"""Validation while training: losses and scores on validation rows; model, mode and random numbers stay as they are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multilora.data.counts import TaskCounts
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import EncodedTask, RowRules, encode_tasks
from multilora.data.general_text import read_texts
from multilora.data.round_trip import spread
from multilora.errors import InputError, nearest
from multilora.evaluation.harness import evaluate_tasks
from multilora.recipe import ValidationSection
from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Task, TaskWrapper
from multilora.training.batches import Collator, as_dataset
from multilora.training.task_losses import TaskLosses, by_task

GENERAL_TEXT = "general text"
_MORE_TOKENS = 16  # that a generated answer may have than the longest completion: a quick look needs no more


@dataclass(frozen=True)
class GeneralText:
    """Texts as token ids, cut into windows that the model can take.

    Attributes:
        windows: as a task all of whose tokens are learnt.
        characters: of all texts together.
    """

    windows: EncodedTask
    characters: int


class Validation:
    """The validation rows, encoded once.

    Args:
        section: what to validate, and when.
        tasks: the tasks; those without validation rows are left out.
        tokenizer: the model's.
        encoder: made of the tokenizer.
        rules: for rows that cannot be used as they are.
        batch_size: rows of a forward pass.
        note: called with the tasks that have no validation rows.

    Raises:
        InputError: there is nothing to validate on, best_by names nothing that is measured, or rows cannot be read.
    """

    def __init__(
        self,
        section: ValidationSection,
        tasks: Sequence[Task],
        tokenizer: Any,
        encoder: PromptCompletionEncoder,
        rules: RowRules,
        batch_size: int,
        note: Callable[[str], None],
    ) -> None:
        self.section, self._tokenizer, self._rules, self._batch_size = section, tokenizer, rules, batch_size
        self._tasks = [task for task in tasks if _has_validation(task, note)]
        chosen = [_Spread(task, section.limit) for task in self._tasks]
        self._encoded = encode_tasks(chosen, encoder, rules, split="validation")
        self._general = self._general_text(encoder) if self.section.general_text else None
        if not self._encoded and self._general is None:
            raise InputError(
                "validation: no task has validation rows and there is no general_text; set validation_share of a task, "
                "for example to 0.05"
            )
        self._check_best_by()

    def measure(self, trainer: Any) -> dict[str, Any]:
        """Validate the trainer's model.

        Returns:
            `loss`: mean of the tasks' losses; `tasks`: for each its `loss` (nats per token of the completions),
            `tokens`, and metrics if the section asks for scores; then `score`, the mean of the tasks' main metrics;
            `general_text`: `loss` (nats per token), `tokens`, `bits_per_character` (texts longer than max_length are
            read in windows, whose first token has no bits).
        """
        line: dict[str, Any] = {}
        with _only_looking(trainer.model):
            if self._encoded:
                losses = self._losses(trainer, self._encoded)
                line["loss"] = float(np.mean([found["loss"] for found in losses.values()]))
                line["tasks"] = losses
            if self.section.scores and self._encoded:
                line |= self._scores(trainer, line["tasks"])
            if self._general is not None:
                (found,) = self._losses(trainer, [self._general.windows]).values()
                bits = found["loss"] * found["tokens"] / math.log(2) / self._general.characters
                line["general_text"] = found | {"bits_per_character": bits}
        return line

    def _losses(self, trainer: Any, tasks: Sequence[EncodedTask]) -> dict[str, dict[str, float]]:
        """Each process takes its share of the batches."""
        accelerator = trainer.accelerator
        model = accelerator.unwrap_model(trainer.model)
        losses = TaskLosses([task.name for task in tasks])
        batches = list(_batches(tasks, self._batch_size))
        dataset, collate = as_dataset(tasks), Collator(pad_id=0)
        index, count = accelerator.process_index, accelerator.num_processes
        # A divided model takes all processes in every forward pass: who has no batch left repeats the last, uncounted.
        for turn in range(math.ceil(len(batches) / count)):
            number = turn * count + index
            rows = batches[min(number, len(batches) - 1)]
            batch = collate([dataset[row] for row in rows])
            task_ids = batch.pop("task_ids")
            inputs: Mapping[str, Tensor] = {name: tensor.to(model.device) for name, tensor in batch.items()}
            output = model(**inputs, fused_lm_head=True, use_cache=False)  # the head that the trainer puts on
            if number < len(batches):
                losses.add(output.log_probs, output.label_mask, task_ids)
        losses.reduce(accelerator)
        return by_task(losses.taken())

    def _scores(self, trainer: Any, losses: dict[str, dict[str, float]]) -> dict[str, Any]:
        scored = [task for task in self._tasks if task.scoring.metrics]
        main: list[float] = []
        evaluation = evaluate_tasks(
            trainer.accelerator.unwrap_model(trainer.model),
            self._tokenizer,
            scored,
            split="validation",
            limit=self.section.limit,
            on_bad_row=self._rules.on_bad_row,
            batch_size=self._batch_size,
            on_long_prompt="drop",
            max_new_tokens=self._longest_answer() + _MORE_TOKENS,
        )
        for task in scored:
            for name in task.scoring.metrics:
                value = evaluation.tasks[task.name].metrics[name].value
                if value is not None:
                    losses[task.name][name] = value
            if task.scoring.metrics[0] in losses[task.name]:
                main.append(losses[task.name][task.scoring.metrics[0]])
        return {"score": float(np.mean(main))} if main else {}

    def _longest_answer(self) -> int:
        """Tokens of the longest completion of a validation row that is scored."""
        scored = [
            encoded
            for task, encoded in zip(self._tasks, self._encoded, strict=True)
            if task.scoring.metrics and len(encoded.offsets) > 1
        ]
        lengths = (np.add.reduceat(task.loss_mask, task.offsets[:-1], dtype=np.int64).max() for task in scored)
        return int(max(lengths, default=0))

    def _general_text(self, encoder: PromptCompletionEncoder) -> GeneralText:
        texts = _spread(read_texts(self.section.general_text, "validation.general_text"), self.section.limit)
        length, windows = self._rules.max_length, list[list[int]]()
        for ids in encoder.prompts(texts):
            windows += [ids[start : start + length] for start in range(0, len(ids), length)]
        windows = [ids for ids in windows if len(ids) > 1]
        offsets = np.cumsum([0, *(len(ids) for ids in windows)], dtype=np.int64)
        flat = np.concatenate([np.array(ids, dtype=np.int32) for ids in windows])
        encoded = EncodedTask(GENERAL_TEXT, flat, offsets, np.ones(len(flat), dtype=np.bool_), TaskCounts())
        return GeneralText(encoded, sum(map(len, texts)))

    def _check_best_by(self) -> None:
        best_by = self.section.best_by
        if best_by is None:
            return
        known = ["loss", *(f"{task.name}.loss" for task in self._tasks)] if self._tasks else []
        if self.section.scores and any(task.scoring.metrics for task in self._tasks):
            known += ["score", *(f"{task.name}.{name}" for task in self._tasks for name in task.scoring.metrics)]
        if best_by not in known:
            raise InputError(
                f"validation.best_by: nothing measured is called {best_by!r}{nearest(best_by, known)}; "
                + (f"there are {', '.join(known)}" if known else "no task has validation rows")
            )


def measured(line: Mapping[str, Any], name: str) -> float | None:
    """The value that `best_by` names in a line of `Validation.measure`; None if it was not measured."""
    if name in ("loss", "score"):
        return line.get(name)
    task, _, metric = name.rpartition(".")
    return line["tasks"].get(task, {}).get(metric)


def is_better(value: float, than: float, name: str) -> bool:
    """A loss is better the lower it is, everything else the higher."""
    return value < than if name.rpartition(".")[2] == "loss" else value > than


def as_logs(line: Mapping[str, Any]) -> dict[str, float]:
    """A line as flat names for trackers, such as `eval_loss/gsm8k`."""
    logs = {f"eval_{name}": float(line[name]) for name in ("loss", "score") if name in line}
    for task, values in line.get("tasks", {}).items():
        logs |= {f"eval_{name}/{task}": float(value) for name, value in values.items() if name != "tokens"}
    if "general_text" in line:
        logs["eval_loss/general_text"] = float(line["general_text"]["loss"])
    return logs


@dataclass(frozen=True)
class _Spread(TaskWrapper):
    """A task of whose evaluation rows `limit` are read, spread evenly."""

    limit: int | None

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        return iter(_spread(list(self.task.eval_rows(split)), self.limit))


def _spread(items: Sequence[Any], limit: int | None) -> Sequence[Any]:
    return items if limit is None else [items[number] for number in spread(len(items), limit)]


def _has_validation(task: Task, note: Callable[[str], None]) -> bool:
    try:
        task.check("validation")
    except NoSplitError as error:
        note(f"{error}. It is not validated")
        return False
    return True


def _batches(tasks: Sequence[EncodedTask], size: int) -> Iterator[list[int]]:
    """All rows, the longest first, so that batches hardly pad."""
    order = np.argsort(-np.concatenate([task.lengths for task in tasks]), kind="stable").tolist()
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def _only_looking(model: Any) -> Generator[None]:
    was_training = model.training
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(was_training)
        random.setstate(states[0])
        np.random.set_state(states[1])
