"""How often each task of a recipe is seen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from multilora.data.mixture import CountedBy, RateRule
from multilora.errors import InputError
from multilora.fields import Integer, Number, Section


class MixtureSection(Section):
    """How often each task is seen."""

    rates: RateRule = Field(
        "explicit",
        description="explicit: each task's rate. proportional: by the task's size n. equal: the same for all. "
        "temperature: by n^(1/temperature).",
    )
    temperature: Number | None = Field(
        None, ge=1, description="For rates: temperature. 1 is proportional, a large one nearly equal."
    )
    examples_cap: Integer | None = Field(
        None,
        ge=1,
        description="For rates proportional and temperature: a task's n counts up to this, as T5's K. In tokens if "
        "counted_by is tokens.",
    )
    counted_by: CountedBy = Field(
        "examples",
        description="What n and the shares are measured in: examples, or tokens of prompts and completions. Counted by "
        "tokens, a task of short examples with rate 1 is as many tokens as one of long examples with rate 1.",
    )
    on_leak: Literal["fail", "drop"] = Field(
        "fail",
        description="A training row whose question is also one of a validation or test split of any of the tasks: "
        "stop, or leave it out of training, counted and named. `multilora data check` lists them.",
    )
    streaming: bool = Field(
        False,
        description="Read, encode and mix rows while training goes, for data larger than memory. Needs training.steps, "
        "and rates explicit or equal, counted by examples: the tasks' sizes are unknown.",
    )
    shuffle_buffer: Integer | None = Field(
        None,
        ge=1,
        description="For streaming: rows of a task are shuffled within blocks of this many, which are held in memory. "
        "None: 10,000.",
    )

    @property
    def buffer(self) -> int:
        """Rows of a block that is shuffled."""
        return self.shuffle_buffer or 10_000

    @model_validator(mode="after")
    def _streams_have_no_sizes(self) -> MixtureSection:
        if not self.streaming and self.shuffle_buffer is not None:
            raise InputError(
                f"shuffle_buffer: {self.shuffle_buffer} has no effect without streaming: all rows are shuffled. Leave "
                "it out, or set streaming: true"
            )
        if self.streaming and self.rates not in ("explicit", "equal"):
            raise InputError(
                f"rates: {self.rates} needs the tasks' sizes, which a stream does not know; set rates to explicit or "
                "equal, or streaming to false"
            )
        if self.streaming and self.counted_by == "tokens":
            raise InputError(
                "counted_by: tokens needs the mean length of the tasks' examples, which a stream does not know; leave "
                "it out, or set streaming to false"
            )
        return self

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> MixtureSection:
        if self.rates == "temperature" and self.temperature is None:
            raise InputError("rates: temperature needs a temperature, such as temperature: 2")
        if self.rates != "temperature" and self.temperature is not None:
            raise InputError(
                f"temperature: {self.temperature} has no effect with rates: {self.rates}; leave it out, or set rates: "
                "temperature"
            )
        if self.rates in ("explicit", "equal") and self.examples_cap is not None:
            raise InputError(
                f"examples_cap: {self.examples_cap} has no effect with rates: {self.rates}; leave it out, or set "
                "rates to proportional or temperature"
            )
        return self
