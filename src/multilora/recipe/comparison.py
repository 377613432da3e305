"""What `multilora compare` does with a recipe: the methods side by side, seeds, regimes, learning rates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multilora.fields import Integer, Number, Section


class ComparedMethod(Section):
    """What one method changes in the recipe's training."""

    learning_rate: Number | None = Field(
        None, gt=0, description="Fixes the learning rate. None: the best of the learning_rates, else the recipe's."
    )
    learning_rates: list[Number] | None = Field(
        None, min_length=1, description="Its own learning rates to try, as many as others try. None: learning_rates."
    )
    scaling_lr_ratio: Number | None = Field(
        None, gt=0, description="As in training. None: the recipe's, or 1 for a method without a learned scale."
    )


class ComparisonSection(Section):
    """What `multilora compare` runs."""

    methods: dict[str, ComparedMethod] = Field(
        {},
        description="The methods by their short names: full, lora@RANK, multilora (the recipe's own), multilora@NxR "
        "(n modules of rank r), each with options after a colon: multilora@3x8:scaling=scalar.",
    )
    seeds: Integer = Field(1, ge=1, description="Every method is trained with seeds 0, 1, … below this.")
    regimes: list[Literal["mixed", "single"]] = Field(
        ["mixed"],
        min_length=1,
        description="mixed: one adapter for all tasks. single: one for each task, which sees as many of the task's "
        "examples as the mixed one does.",
    )
    learning_rates: list[Number] = Field(
        [],
        description="Every method without a fixed learning_rate is first trained once with each of these, and "
        "then uses the best on the validation rows.",
    )
    select_by: Literal["score", "loss"] = Field(
        "score", description="What best means: the mean of the tasks' main metrics, or of their losses."
    )
    limit: Integer | None = Field(None, ge=1, description="Test rows per task, the same for all. None: all.")
    max_new_tokens: Integer = Field(256, ge=1, description="Tokens of a generated answer in the test, at most.")
