"""Series and groups of the page: each method has one colour throughout; runs of one seed are laid over one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multilora.report.inputs import ReportInputs
from multilora.report.run_record import RunRecord
from multilora.runs.layout import MIXED


@dataclass(frozen=True)
class PlottedRun:
    """A run, and where plots show it.

    Attributes:
        run: what is known of it.
        series: number of its method, which has one colour; a run outside of comparisons is its own method.
        group: number of the runs that it is shown with, those of one seed; None: it is shown with every group.
    """

    run: RunRecord
    series: int
    group: int | None


class Lineup:
    """All runs of a page.

    Args:
        inputs: of the page.

    Attributes:
        labels: of the series.
        trained: how many of them were trained; the others were only benched.
        groups: labels of the groups; at least one.
        members: by the runs' names.
    """

    def __init__(self, inputs: ReportInputs) -> None:
        runs = inputs.all_runs.values()
        self._several = len({run.comparison for run in runs if run.comparison}) > 1
        self.labels: list[str] = []
        for comparison in inputs.comparisons:
            for method in comparison.results.methods if comparison.results else ():
                self.series_of(method, comparison.folder)
        places = sorted(
            {(run.comparison, run.regime, run.seed) for run in runs if run.comparison},
            key=lambda place: _group_order(*place),
        )
        self.groups = [self._group_label(*place) for place in places] or ["all runs"]
        self.members: dict[str, PlottedRun] = {}
        for run in runs:
            if run.comparison:
                number = places.index((run.comparison, run.regime, run.seed))
                self.members[run.name] = PlottedRun(run, self.series_of(run.method, run.comparison), number)
            else:
                label = run.name if run.method in run.name else f"{run.name} ({run.method})"
                self.members[run.name] = PlottedRun(run, self._series(self._unused(label)), None)
        self.trained = len(self.labels)
        for method in inputs.bench.names if inputs.bench else ():
            self.benched(method)

    def series_of(self, method: str, comparison: str) -> int:
        """Number of a comparison's method."""
        return self._series(f"{Path(comparison).name}: {method}" if self._several else method)

    def benched(self, method: str) -> int:
        """Number of a bench's method; that of a trained one of the same name, where there is one."""
        return self._series(method)

    def in_group(self, group: int) -> Iterator[PlottedRun]:
        """The runs that are shown together, by series."""
        shown = (m for m in self.members.values() if m.group in (group, None))
        return iter(sorted(shown, key=lambda member: member.series))

    def averaged(self, series: int) -> Sequence[str]:
        """The runs whose mean stands for a series: its mixed trainings, where it has any."""
        own = [m for m in self.members.values() if m.series == series]
        return [m.run.name for m in own if m.run.regime == MIXED] or [m.run.name for m in own]

    def _group_label(self, comparison: str, regime: str | None, seed: int | None) -> str:
        label = f"seed {seed}" + ("" if regime in (MIXED, None) else f", {regime} alone")
        return f"{Path(comparison).name}: {label}" if self._several else label

    def _series(self, label: str) -> int:
        if label not in self.labels:
            self.labels.append(label)
        return self.labels.index(label)

    def _unused(self, label: str) -> str:
        number, found = 2, label
        while found in self.labels:
            number, found = number + 1, f"{label} ({number})"
        return found


def _group_order(comparison: str, regime: str | None, seed: int | None) -> tuple[str, bool, str, int]:
    return comparison, regime != MIXED, regime or "", -1 if seed is None else seed
