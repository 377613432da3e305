"""When to validate, validation.jsonl, and the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from multilora.runs.records import BestRecord, BestWeights, ValidationLine, ValidationSummary
from multilora.storage.folders import written_aside
from multilora.training.trainer import save_weights
from multilora.training.validation import Validation, as_logs, is_better, measured

RECORD = "best.json"
_NO_SCORES = ("loss", "tokens")


def read_best(folder: Path) -> BestRecord | None:
    """The step and value of the best weights; None if there are none."""
    record = folder / RECORD
    return BestRecord.read(record) if record.is_file() else None


def before_and_after(lines: Sequence[ValidationLine], best: BestRecord | None) -> ValidationSummary:
    """For results.json: the validation of the base model, and that of the weights that the run ends with.

    Args:
        lines: of validation.jsonl.
        best: the record of the best weights, which the run then ends with; the last validation's if None.
    """
    by_step = {line.step: line for line in lines}
    after = by_step.get(best.step) if best else (lines[-1] if lines else None)
    weights = BestWeights(step=best.step, best_by=best.best_by, value=best.value) if best else None
    return ValidationSummary(before=by_step.get(0), after=after, best=weights)


class ValidationCallback(TrainerCallback):
    """Validates before the first step, every so many steps and after the last, and keeps the best weights.

    Args:
        validation: what is measured.
        trainer: whose model it is.
        path: validation.jsonl, appended to: one line per validation, with its step.
        best: folder for the best weights, if the recipe asks for them.
        note: called with each result.
        not_training: called with the seconds that a validation took.
    """

    def __init__(
        self,
        validation: Validation,
        trainer: Any,
        path: Path,
        best: Path,
        note: Callable[[str], None],
        not_training: Callable[[float], None],
    ) -> None:
        self._validation, self._trainer = validation, trainer
        self._path, self._best = path, best
        self._note, self._not_training = note, not_training

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._validate(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        every = self._validation.section.every
        if state.global_step == state.max_steps or (every is not None and state.global_step % every == 0):
            self._validate(args, state, control)

    def _validate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        began = time.monotonic()
        line = {"step": state.global_step, **self._validation.measure(self._trainer)}
        processes = self._trainer.processes
        better = processes.by_main(lambda: self._is_best(line))
        whole = self._trainer.whole_weights() if better else None

        def record() -> None:
            if better:
                self._keep(line, whole)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(ValidationLine.model_validate(line).text())

        processes.by_main(record)
        # To the trackers alone: the trainer's own log would end a window of its training averages.
        should_log = control.should_log
        self._trainer.callback_handler.on_log(args, state, control, as_logs(line))
        control.should_log = should_log  # which logging takes back, and others have set for this step
        self._note(_summary(line) + (" (the best so far)" if better else ""))
        self._not_training(time.monotonic() - began)

    def _is_best(self, line: Mapping[str, Any]) -> bool:
        by = self._validation.section.best_by
        if by is None or (value := measured(line, by)) is None or math.isnan(value):
            return False
        best = read_best(self._best)
        return best is None or is_better(value, than=best.value, name=by)

    def _keep(self, line: Mapping[str, Any], whole: dict[str, Tensor] | None) -> None:
        by = self._validation.section.best_by
        assert by is not None
        with written_aside(self._best) as aside:
            save_weights(self._trainer.accelerator.unwrap_model(self._trainer.model), aside, whole)
            value = measured(line, by)
            assert value is not None  # or it would not be the best
            record = BestRecord(step=line["step"], best_by=by, value=value)
            (aside / RECORD).write_text(record.text(), encoding="utf-8")


def _summary(line: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for name, values in line.get("tasks", {}).items():
        scores = "".join(f" {metric} {value:.3f}" for metric, value in values.items() if metric not in _NO_SCORES)
        parts.append(f"{name} {values['loss']:.4f}{scores}")
    if "general_text" in line:
        parts.append(f"general text {line['general_text']['loss']:.4f}")
    mean = f" loss {line['loss']:.4f}:" if "loss" in line else ""
    return f"validation at step {line['step']}:{mean} {', '.join(parts)}"
