"""Who is laid over whom, and who has which colour."""

from __future__ import annotations

from multilora.comparison.record import ComparisonResults
from multilora.report.inputs import ComparedMethods, ReportInputs
from multilora.report.lineup import Lineup
from multilora.report.run_record import RunRecord
from report.study import comparison_results


def cell(method: str, seed: int, regime: str = "mixed", comparison: str = "grid") -> RunRecord:
    return RunRecord(f"{comparison} {method} {seed} {regime}", method, seed, regime, comparison)


def grid(*methods: str, folder: str = "grid") -> ComparedMethods:
    return ComparedMethods(folder, ComparisonResults.model_validate(comparison_results(methods)), None)


def test_methods_of_one_comparison_keep_its_order_and_seeds_are_groups() -> None:
    runs = [cell(method, seed) for method in ("lora@4", "full") for seed in (1, 0)]
    found = Lineup(ReportInputs(None, [grid("full", "lora@4")], runs))
    assert found.labels == ["full", "lora@4"]
    assert found.groups == ["seed 0", "seed 1"]
    assert [member.run.name for member in found.in_group(1)] == ["grid full 1 mixed", "grid lora@4 1 mixed"]
    assert set(found.averaged(0)) == {"grid full 0 mixed", "grid full 1 mixed"}


def test_trainings_on_one_task_are_groups_of_their_own_and_not_in_averages() -> None:
    runs = [cell("full", 0, regime) for regime in ("rte", "mixed", "copa")]
    found = Lineup(ReportInputs(None, [grid("full")], runs))
    assert found.groups == ["seed 0", "seed 0, copa alone", "seed 0, rte alone"]
    assert found.averaged(0) == ["grid full 0 mixed"]
    alone = Lineup(ReportInputs(None, [grid("full")], runs[:1]))
    assert alone.averaged(0) == ["grid full 0 rte"]


def test_a_run_outside_of_comparisons_is_shown_with_every_seed_in_its_own_colour() -> None:
    runs = [cell("full", 0), cell("full", 1), RunRecord("mine", "lora@8"), RunRecord("full", "full")]
    found = Lineup(ReportInputs(None, [grid("full")], runs))
    assert found.labels == ["full", "mine (lora@8)", "full (2)"]
    assert all({"mine", "full"} <= {member.run.name for member in found.in_group(group)} for group in (0, 1))


def test_methods_of_two_comparisons_are_told_apart() -> None:
    runs = [cell("full", 0, comparison=folder) for folder in ("x/one", "x/two")]
    found = Lineup(ReportInputs(None, [grid("full", folder="x/one"), grid("full", folder="x/two")], runs))
    assert found.labels == ["one: full", "two: full"]
    assert found.groups == ["one: seed 0", "two: seed 0"]


def test_without_comparisons_all_runs_are_together() -> None:
    found = Lineup(ReportInputs(None, (), [RunRecord("a", "full"), RunRecord("b", "lora@4")]))
    assert found.groups == ["all runs"]
    assert [member.series for member in found.in_group(0)] == [0, 1]
