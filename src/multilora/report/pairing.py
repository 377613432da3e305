"""Which runs are compared: the roles of methods, and the runs of an analysis that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from multilora.bench.record import AtLength
from multilora.comparison.record import ComparedMethod, ComparisonResults
from multilora.report.numbers import listed
from multilora.report.run_record import RunRecord, analysed_runs
from multilora.runs.layout import MIXED
from multilora.spectral.findings import Measure
from multilora.spectral.record import AnalysisRecord, MatrixRecord

Role = Literal["multilora", "lora", "full"]
Values = tuple[float, ...]

NAMES: Mapping[Role, str] = {"multilora": "MultiLoRA", "lora": "LoRA", "full": "full fine-tuning"}


@dataclass(frozen=True)
class Method:
    """A method of a comparison, an analysis or a bench.

    Attributes:
        name: its short name.
        kind: multilora, lora or full.
        num_loras, r, total_rank: of an adapter.
        control: a MultiLoRA that is not the paper's: one module, or modules without a learned scale.
    """

    name: str
    kind: str
    num_loras: int | None = None
    r: int | None = None
    total_rank: int | None = None
    control: bool = False


@dataclass(frozen=True)
class Roles:
    """The methods by their roles; None for a role without a method.

    Attributes:
        multilora: the paper's method.
        equal_lora: plain LoRA of its total rank n·r, the fair one.
        small_lora: plain LoRA of the rank r of one of its modules.
        other_lora: plain LoRA of any other rank.
        full: full fine-tuning.
    """

    multilora: Method | None = None
    equal_lora: Method | None = None
    small_lora: Method | None = None
    other_lora: Method | None = None
    full: Method | None = None

    @property
    def lora(self) -> Method | None:
        """The fairest plain LoRA there is."""
        return self.equal_lora or self.small_lora or self.other_lora

    def of(self, role: Role) -> Method | None:
        """The method in a role."""
        return {"multilora": self.multilora, "lora": self.lora, "full": self.full}[role]

    def label(self, role: Role) -> str:
        """The method in a role, called by its role and its name: LoRA of equal total rank (lora@24)."""
        method = self.of(role)
        if method is None:
            return NAMES[role]
        which = ""
        if role == "lora" and self.multilora is not None:
            which = " of another rank"
            if method == self.equal_lora:
                which = " of equal total rank"
            elif method == self.small_lora:
                which = " of one module's rank"
        return f"{NAMES[role]}{which}" + (f" ({method.name})" if method.name != method.kind else "")


def roles_of(methods: Iterable[Method]) -> Roles:
    """The methods by their roles, independent of their order.

    Of several MultiLoRAs the recipe's own counts, else one without options; controls count only where there is nothing
    else.
    """
    ordered = sorted(methods, key=lambda m: (m.control, m.name != "multilora", ":" in m.name, m.name))
    multilora = next((m for m in ordered if m.kind == "multilora"), None)
    loras = [m for m in ordered if m.kind == "lora"]
    equal = small = None
    if multilora is not None:
        equal = next((m for m in loras if m.total_rank == multilora.total_rank), None)
        small = next((m for m in loras if m.total_rank == multilora.r), None)
    return Roles(
        multilora,
        equal,
        small,
        next((m for m in loras if m not in (equal, small)), None),
        next((m for m in ordered if m.kind == "full"), None),
    )


def compared_roles(results: ComparisonResults) -> Roles:
    """The roles in a comparison."""
    return roles_of(_compared(name, found) for name, found in results.methods.items())


def benched_roles(at: AtLength) -> Roles:
    """The roles in a bench, among the methods measured at one length."""
    return roles_of(
        Method(
            name,
            costs.kind,
            costs.num_loras,
            costs.r,
            costs.total_rank,
            costs.kind == "multilora" and (costs.num_loras == 1 or "scaling=none" in name),
        )
        for name, costs in at.methods.items()
    )


def _compared(name: str, found: ComparedMethod) -> Method:
    section = found.section
    kind = str(section.get("name", ""))
    return Method(
        name, kind, section.get("num_loras", 1), section.get("r"), found.total_rank, _is_control(kind, section)
    )


def _is_control(kind: str, section: Mapping[str, Any]) -> bool:
    return kind == "multilora" and (section.get("num_loras") == 1 or section.get("scaling") == "none")


@dataclass(frozen=True)
class Beside:
    """Runs beside one another, training by training and matrix by matrix.

    Attributes:
        labels: what the methods in the roles are called.
        runs: of each training, the runs in the order of the roles.
        seeds: of each training, of each matrix that all of them have, the records in that order.
        compared_with_full: all runs' subspaces were compared with full fine-tuning's.
    """

    labels: Sequence[str]
    runs: Sequence[tuple[RunRecord, ...]]
    seeds: Sequence[Sequence[tuple[MatrixRecord, ...]]]
    compared_with_full: bool

    def values(self, of: Callable[..., Values | None]) -> list[list[Values]]:
        """Of each training, of each matrix the values.

        Args:
            of: takes a matrix's records, one for each role, and gives the values; None: the matrix is left out.
        """
        return [[found for records in matrices if (found := of(*records)) is not None] for matrices in self.seeds]


class Spectra:
    """The runs of an analysis by what they have in common.

    Runs are put beside those of the same comparison, regime and seed. A kind of method that a comparison lacks comes
    from the runs outside of comparisons. Where no seed is shared, as with adapters of unknown seed, runs are paired in
    the order of their seeds. Trainings on the whole mixture count where there are any.

    Args:
        data: the analysis; None if nothing was analysed.
    """

    def __init__(self, data: AnalysisRecord | None) -> None:
        analysed = [run for _, run in sorted(analysed_runs(data).items()) if run.matrices]
        self._kinds = {name: run.kind for name, run in data.runs.items()} if data else {}
        places: dict[str | None, list[RunRecord]] = {}
        for run in analysed:
            places.setdefault(run.comparison, []).append(run)
        loose = _mixed(places.get(None, []))
        self.analysed = data is not None
        self.groups: list[tuple[Roles, list[RunRecord]]] = []
        for place, runs in sorted(places.items(), key=lambda item: item[0] or ""):
            own = _mixed(runs)
            if place is not None:
                kinds = {_method_of(run).kind for run in own}
                own += [run for run in loose if _method_of(run).kind not in kinds]
            self.groups.append((roles_of({_method_of(run) for run in own}), own))

    def beside(self, *roles: Role) -> Beside | str:
        """The runs in these roles; or the reason that none are.

        Args:
            roles: each at most once.
        """
        if not self.analysed:
            return "nothing was analysed"
        if missing := [NAMES[role] for role in roles if not any(parts.of(role) for parts, _ in self.groups)]:
            return f"no {listed(missing)} among the runs"
        labels: dict[tuple[str, ...], None] = {}
        runs: list[tuple[RunRecord, ...]] = []
        seeds: list[list[tuple[MatrixRecord, ...]]] = []
        for parts, own in self.groups:
            for trained in _together([[run for run in own if _method_of(run) == parts.of(role)] for role in roles]):
                layers = sorted(set.intersection(*(set(run.matrices) for run in trained)))
                if layers:
                    labels[tuple(parts.label(role) for role in roles)] = None
                    runs.append(trained)
                    seeds.append([tuple(run.matrices[layer] for run in trained) for layer in layers])
        if not seeds:
            return f"{listed([NAMES[role] for role in roles])} have no matrix in common in one comparison"
        names = [" and ".join(dict.fromkeys(names)) for names in zip(*labels, strict=True)]
        return Beside(names, runs, seeds, all(self._reference(run) == "full" for trained in runs for run in trained))

    def _reference(self, run: RunRecord) -> str | None:
        """Kind of the run that its subspaces were compared with."""
        return self._kinds.get(run.analysed.reference) if run.analysed and run.analysed.reference else None


def _method_of(run: RunRecord) -> Method:
    """The method of a run that was analysed."""
    assert run.analysed is not None
    section: Mapping[str, Any] = (run.recipe or {}).get("method") or {}
    kind, n = run.analysed.kind, run.analysed.num_loras
    control = _is_control(kind, {**section, "num_loras": n})
    return Method(run.method, kind, n, run.analysed.r, run.analysed.total_rank, control)


def _mixed(runs: list[RunRecord]) -> list[RunRecord]:
    """Without the trainings on one task, where there are others."""
    if not any(run.regime == MIXED for run in runs):
        return list(runs)
    return [run for run in runs if run.regime in (MIXED, None)]


def _together(runs: Sequence[Sequence[RunRecord]]) -> list[tuple[RunRecord, ...]]:
    """Of each role's runs those that belong together."""
    if not all(runs):
        return []
    keyed = [_by_seed(of_role) for of_role in runs]
    if shared := sorted(set.intersection(*map(set, keyed)), key=str):
        return [tuple(of_role[key] for of_role in keyed) for key in shared]
    most = max(map(len, runs))
    return [tuple(list(of_role.values())[number % len(of_role)] for of_role in keyed) for number in range(most)]


def _by_seed(runs: Sequence[RunRecord]) -> dict[tuple[str | None, int | None, int], RunRecord]:
    """By regime, seed and, where two have the same, a number."""
    found: dict[tuple[str | None, int | None, int], RunRecord] = {}
    for run in sorted(runs, key=lambda run: (run.regime or "", -1 if run.seed is None else run.seed, run.name)):
        number = 0
        while (run.regime, run.seed, number) in found:
            number += 1
        found[run.regime, run.seed, number] = run
    return found


def measured(*measures: Measure) -> Callable[..., Values | None]:
    """Picks measures of each record, one after the other; None where a record lacks one."""

    def pick(*records: MatrixRecord) -> Values | None:
        found = [measure.value(record) for record in records for measure in measures]
        return tuple(value for value in found if value is not None) if None not in found else None

    return pick
