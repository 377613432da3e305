"""metrics.jsonl: one line per logged step, each step once, also when the run was interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from multilora.runs.records import MetricsLine, ValidationLine
from multilora.storage.record import write_lines
from multilora.terminal import Progress
from multilora.training.task_losses import by_task

_KEPT = ("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "epoch")


L = TypeVar("L", MetricsLine, ValidationLine)


def cut_lines(kind: type[L], path: Path, step: int) -> list[L]:
    """Remove the lines beyond `step`, whose work a kill has undone. Returns the lines that stay.

    Raises:
        InputError: the file is damaged.
    """
    kept = [line for line in kind.read_all(path) if line.step <= step]
    write_lines(path, kept)
    return kept


class LogAtCheckpoints(TrainerCallback):
    """A checkpoint ends a window of averages: a resumed run then logs the same numbers as one in one go."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log = control.should_log or control.should_save


class MetricsCallback(TrainerCallback):
    """Writes the metrics and reports progress: in the main process, after `LogAtCheckpoints`.

    Args:
        path: the file, appended to.
        progress: receives the same metrics.
        before: the last line before this session, or None; time and tokens count on from it.
    """

    def __init__(self, path: Path, progress: Progress, before: MetricsLine | None) -> None:
        self._path, self._progress = path, progress
        self._seconds_before: float = before.seconds if before else 0.0
        self._tokens: int = before.tokens if before else 0
        self._began = self._logged = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._file = self._path.open("a", encoding="utf-8")
        self._began = self._logged = time.monotonic()
        self._progress.start(state.max_steps, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not control.should_log:
            self._progress.step(state.global_step, None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # the trainer's closing summary
            return
        now = time.monotonic()
        tokens = int(state.num_input_tokens_seen)
        line = {name: float(logs[name]) for name in _KEPT if name in logs} | {
            "tokens": tokens,
            "tokens_per_second": round((tokens - self._tokens) / max(now - self._logged, 1e-9), 1),
            "seconds": round(self._seconds_before + now - self._began, 3),
        }
        self._tokens, self._logged = tokens, now
        record = {"step": state.global_step, **line, "tasks": by_task(logs)}
        self._file.write(MetricsLine.model_validate(record).text())
        self._file.flush()
        self._progress.step(state.global_step, line)

    def not_training(self, seconds: float) -> None:
        """Leave out time that went by without training."""
        self._began += seconds
        self._logged += seconds

    def close(self) -> None:
        """Close the file; called after training, well ended or not."""
        if hasattr(self, "_file"):
            self._file.close()
