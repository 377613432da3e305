"""Limits of a model: rows are checked against it before the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from multilora.errors import InputError


@dataclass(frozen=True)
class ModelLimits:
    """A model's limits.

    Attributes:
        embeddings: tokens that it has embeddings for; ids are below.
        positions: the longest row in tokens; None for no limit.
    """

    embeddings: int
    positions: int | None

    @classmethod
    def of(cls, model: Any) -> ModelLimits:
        """The limits of a language model of transformers."""
        rows: int = model.get_input_embeddings().weight.shape[0]
        return cls(rows, getattr(model.config, "max_position_embeddings", None))

    def check(self, highest_id: int, longest: int) -> None:
        """Whether rows fit.

        Args:
            highest_id: the highest token id among them.
            longest: tokens of the longest.

        Raises:
            InputError: they do not.
        """
        if highest_id >= self.embeddings:
            raise InputError(
                f"model: the tokenizer gives token id {highest_id}, and the model has embeddings for "
                f"{self.embeddings} tokens; the folder's tokenizer is not this model's"
            )
        if self.positions is not None and longest > self.positions:
            raise InputError(
                f"training.max_length: the longest example has {longest:,} tokens and the model "
                f"{self.positions:,} positions; set training.max_length to {self.positions} or less"
            )
