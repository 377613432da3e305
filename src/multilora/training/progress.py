"""What a person sees while training runs, and silence from the libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class TrainingProgress(Protocol):
    """Gets told how a run goes. All steps are counted from the run's beginning, also when it is resumed."""

    def note(self, text: str) -> None:
        """A line for the user: what is being done, what was skipped, a warning."""
        ...

    def start(self, steps: int, done: int) -> None:
        """Training begins at step `done` of `steps`."""
        ...

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """A step is done; `metrics` where it is one that is logged: loss, tokens_per_second and so on."""
        ...

    def stop(self) -> None:
        """Training has ended, well or not. Also called where it never began."""
        ...


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None: ...

    def stop(self) -> None: ...
