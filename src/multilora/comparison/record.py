"""What a comparison's files hold: comparison.json and results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from multilora.comparison.statistics import Difference, MeanOverSeeds
from multilora.storage.record import Part, Record

AVERAGE = "average"  # beside the tasks' names


class ComparisonRecord(Record):
    """comparison.json: what all cells share. A folder with another record is another comparison's.

    Attributes:
        recipe: what determines a training, without method, learning rate and seed.
        limit: test rows per task; None: all.
        max_new_tokens: of a generated answer.
    """

    recipe: Mapping[str, Any]
    limit: int | None
    max_new_tokens: int | None

    @property
    def shared(self) -> dict[str, Any]:
        """Plain data without the format number."""
        return self.model_dump(exclude={"format"})


class Trial(Part):
    """What a learning rate came to; `value` is the loss or the score, None if the trial has none."""

    learning_rate: float
    value: float | None


class ComparedMethod(Part):
    """A method, and what its trainings took; the latter is absent until one is done.

    Attributes:
        section: the recipe's `method`.
        total_rank: n·r; None for full fine-tuning.
        learning_rates: of its trainings, ascending.
        trials: of the sweep; empty: there was none.
        chosen: learning rate that the sweep found; None: there was none.
        trainable_parameters: a count.
        weights_bytes: size of the weights that a training writes.
        tokens_per_second: median over the trainings.
        peak_memory_bytes: largest of the trainings.
        forgetting: by which the loss on general text rises, in nats per token; None if not measured.
    """

    section: Mapping[str, Any]
    total_rank: int | None
    learning_rates: tuple[float, ...]
    trials: tuple[Trial, ...]
    chosen: float | None
    trainable_parameters: int | None = None
    weights_bytes: int | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    forgetting: MeanOverSeeds | None = None

    @property
    def is_trained(self) -> bool:
        """A training of it is done."""
        return self.tokens_per_second is not None


class PairedDifference(Part):
    """Method minus another one of equal rank, over the seeds that both have.

    Attributes:
        method, minus: their names.
        seeds: how many.
        tasks: of each task's main metric, and of their average (`AVERAGE`).
    """

    method: str
    minus: str
    seeds: int
    tasks: Mapping[str, Difference]


class RegimeResults(Part):
    """What a regime's trainings came to.

    Attributes:
        metrics: name of each task's main metric.
        scores: by method and task, `AVERAGE` among them; empty for a method without complete seeds.
        validation_losses: by method and task, in nats per token.
        differences: of each method to the LoRA of equal rank.
    """

    metrics: Mapping[str, str]
    scores: Mapping[str, Mapping[str, MeanOverSeeds]]
    validation_losses: Mapping[str, Mapping[str, MeanOverSeeds]] = Field(default_factory=dict)
    differences: tuple[PairedDifference, ...] = ()


class ComparisonResults(Record):
    """results.json of a comparison.

    Attributes:
        recipe_hash: of the recipe.
        comparison_hash: of what all cells share.
        limit: test rows per task; None: all.
        methods: by name.
        regimes: by name: mixed, single.
    """

    recipe_hash: str
    comparison_hash: str
    limit: int | None
    methods: Mapping[str, ComparedMethod]
    regimes: Mapping[str, RegimeResults]
