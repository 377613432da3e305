"""What an evaluation found: per task its scores, its predictions and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multilora.data.counts import TaskCounts
from multilora.evaluation.long_prompts import LongPrompts
from multilora.evaluation.results import Score
from multilora.evaluation.saved import AnswerLine, BatchSize, HarnessAnswerLine

Groups = Mapping[str, Mapping[str, Mapping[str, Score]]]


@dataclass(frozen=True)
class TaskEvaluation:
    """A task's scores, and what they are of.

    Attributes:
        metrics: by name, the main one first; empty: not scored.
        groups: by kind (MMLU: category, subject), then by name: the metrics of the rows of that group.
        predictions: one line per scored row, in the order of the files.
        rows: rows to evaluate, the long ones included.
        long_prompts: what did not fit; None: not scored, or a group of the harness's own tasks.
        counts: of the rows read, with the bad ones; None: not scored, or one of the harness's own tasks.
        not_scored: why there are no scores; empty: there are.
        seconds: that it took; of the harness's own tasks together on the first of them.
    """

    metrics: Mapping[str, Score] = field(default_factory=dict[str, Score])
    groups: Groups = field(default_factory=dict[str, Mapping[str, Mapping[str, Score]]])
    predictions: Sequence[AnswerLine | HarnessAnswerLine] = ()
    rows: int = 0
    long_prompts: LongPrompts | None = None
    counts: TaskCounts | None = None
    not_scored: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_tasks` found.

    Attributes:
        tasks: by name: ours in their order, then the harness's own, with its groups.
        harness: version of lm-evaluation-harness.
        max_length: tokens of the context.
        batch_size: rows at a time; auto: as many as fit.
    """

    tasks: Mapping[str, TaskEvaluation]
    harness: str
    max_length: int
    batch_size: BatchSize
