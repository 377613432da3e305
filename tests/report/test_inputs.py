"""What the page reads besides an analysis; what is missing or damaged is left out and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from multilora.report.inputs import ReportInputs, gather
from multilora.spectral.sources import find_sources
from report.study import SEEDS, TASKS


def test_a_comparison_is_read_whole(study: Path, inputs: ReportInputs) -> None:
    (comparison,) = inputs.comparisons
    assert comparison.results is inputs.results[0]
    content = json.loads((study / "comparison/results.json").read_text())
    assert comparison.results is not None
    assert json.loads(comparison.results.text()) == {"format": 1} | content
    assert comparison.record is not None
    assert comparison.record.recipe["tasks"].keys() == set(TASKS)
    assert [(run.method, run.seed, run.regime) for run in inputs.runs] == [
        (method, seed, "mixed") for method in ("full", "lora@4", "multilora") for seed in range(SEEDS)
    ]
    assert inputs.data is not None
    assert {run.name for run in inputs.runs} == inputs.data.runs.keys()
    for run in inputs.runs:
        assert run.comparison == comparison.folder
        assert len(run.metrics) == 12
        assert run.results is not None
        assert run.tests["eval-test"].tasks.keys() == set(TASKS)
    assert inputs.notes == []


def test_a_run_alone_is_one(study: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(study / "comparison/cells/multilora/mixed/seed-0", tmp_path / "alone")
    (run,) = gather(None, [alone]).runs
    assert (run.name, run.method, run.comparison) == ("alone", "multilora@2x2", None)
    assert len(run.metrics) == 12


def test_an_adapter_and_a_model_tell_nothing_more(study: Path) -> None:
    cell = study / "comparison/cells"
    found = gather(None, [cell / "multilora/mixed/seed-0/adapter", study / "base"])
    assert [(run.results, run.metrics, run.recipe, run.tests) for run in found.runs] == [(None, (), None, {})] * 2
    assert found.comparisons == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.json", "{", "is not JSON"),
        ("results.json", "[]", "holds no object"),
        ("results.json", '{"stepz": 1}', "recipe_hash is missing"),
        ("metrics.jsonl", "{\n", "line 1' is not JSON"),
        ("eval-test/results.json", "\x00", "is not JSON"),
    ],
)
def test_what_is_damaged_is_left_out_and_said(study: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    alone = shutil.copytree(study / "comparison/cells/multilora/mixed/seed-0", tmp_path / "alone")
    (alone / name).write_text(content)
    found = gather(None, [alone])
    (note,) = found.notes
    assert said in note
    assert str(alone / name) in note
    (run,) = found.runs
    left_out = {"results.json": run.results, "metrics.jsonl": run.metrics, "eval-test/results.json": run.tests}[name]
    assert not left_out


def test_a_comparison_without_results_says_so(study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(study / "comparison", tmp_path / "grid")
    (folder / "results.json").unlink()
    found = gather(None, [folder])
    assert found.results == []
    assert "has no results yet" in found.notes[0]
    assert len(found.runs) == 6
    shutil.rmtree(folder / "cells")
    assert "no cell that is trained yet" in gather(None, [folder]).notes[1]


def test_a_run_of_the_folders_has_what_the_analysis_found_in_it(
    study: Path, inputs: ReportInputs, tmp_path: Path
) -> None:
    assert inputs.data is not None
    assert list(inputs.all_runs) == [run.name for run in inputs.runs]
    for name, run in inputs.all_runs.items():
        assert run.analysed is inputs.data.runs[name]
        assert run.results is not None
        assert list(run.matrices.values()) == [matrix for matrix in inputs.data.matrices if matrix.run == name]
    alone = shutil.copytree(study / "comparison/cells/full/mixed/seed-0", tmp_path / "another")
    found = gather(inputs.data, [alone]).all_runs
    assert list(found) == ["another", *inputs.data.runs]
    assert (found["another"].analysed, found["full seed 0"].results) == (None, None)


def test_what_the_analysis_found_is_not_searched_again(study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(study / "comparison", tmp_path / "grid")
    sources, searched = find_sources([str(folder)]), gather(None, [folder])
    for recipe in folder.glob("cells/*/*/*/recipe.yaml"):
        recipe.unlink()
    assert gather(None, [folder], sources=sources) == searched
    assert gather(None, [folder]).runs == []


def test_an_analysis_writes_no_page(study: Path) -> None:
    assert {path.name for path in (study / "out").iterdir()} == {"analysis.json", "analysis.parquet", "cache"}


def test_results_of_the_first_version_are_read(study: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(study / "comparison/cells/multilora/mixed/seed-0", tmp_path / "alone")
    content = json.loads((alone / "results.json").read_text())
    del content["processes"], content["validation"]
    (alone / "results.json").write_text(json.dumps(content))
    (run,) = gather(None, [alone]).runs
    assert run.results is not None
    assert (run.results.processes, run.results.forgetting) == (1, None)
