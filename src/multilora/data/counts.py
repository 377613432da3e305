"""What became of a task's rows: kept, skipped, dropped, truncated, left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from multilora.tasks.example import BadRow

_NAMED = 5


@dataclass
class TaskCounts:
    """What became of a task's rows: `rows` = `kept` + `skipped` + `dropped`; `truncated` rows are kept ones.

    `skipped_named` has the first skipped rows, by the reason why. `leaked` rows equal evaluation rows and were left out
    before: `rows` does not count them.
    """

    rows: int = 0
    kept: int = 0
    skipped: int = 0
    dropped: int = 0
    truncated: int = 0
    tokens: int = 0
    completion_tokens: int = 0
    leaked: int = 0
    skipped_named: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def notes(self, name: str) -> list[str]:
        """One line for each kind of row that was not used as it is."""
        lines: list[str] = []
        if self.skipped:
            lines.append(f"{name}: {self.skipped:,} of {self.rows:,} rows skipped: {self.skipped_text()}")
        if self.dropped:
            lines.append(f"{name}: {self.dropped:,} of {self.rows:,} rows dropped: longer than max_length")
        if self.truncated:
            lines.append(f"{name}: {self.truncated:,} of {self.rows:,} rows truncated to max_length")
        return lines

    def skip(self, row: BadRow) -> None:
        """Count a skipped row, and keep its name if it is among the first."""
        self.skipped += 1
        if self.skipped <= _NAMED:
            self.skipped_named.setdefault(row.why, []).append(row.source)

    def skipped_text(self) -> str:
        """The skipped rows with the reasons: all of them, or the first few and a number."""
        reasons = [f"{', '.join(sources)} ({why})" for why, sources in self.skipped_named.items()]
        return "; ".join(reasons) + (f"; and {self.skipped - _NAMED:,} more" if self.skipped > _NAMED else "")


def why_nothing_left(counts: TaskCounts, max_length: int) -> str:
    """Why a task has no row to train on."""
    if not counts.rows:
        return "the files have no rows"
    if counts.skipped == counts.rows:
        return f"all {counts.rows:,} rows were skipped: {counts.skipped_text()}"
    return (
        f"no row of {counts.rows:,} is left: {counts.dropped:,} are longer than training.max_length = {max_length:,}, "
        f"{counts.skipped:,} were skipped"
    )


def counts_of_all(parts: Sequence[TaskCounts]) -> TaskCounts:
    """The counts of a task whose rows several processes read. Rows that only wait to be encoded are not among them."""
    whole = TaskCounts()
    for part in parts:
        for name in ("kept", "skipped", "dropped", "truncated", "tokens", "completion_tokens"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        for why, sources in part.skipped_named.items():
            whole.skipped_named.setdefault(why, []).extend(sources)
    whole.rows = whole.kept + whole.skipped + whole.dropped
    return whole
