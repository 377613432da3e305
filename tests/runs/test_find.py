"""Runs, comparisons, adapters and models are told apart by what lies in their folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from multilora.errors import InputError
from multilora.runs.find import Adapter, Comparison, Model, Run, find
from places import ROOT

OLD = ROOT / "tests/old_folders/fixture"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "old")


def test_each_kind_is_found(old: Path) -> None:
    run = find(old / "run")
    assert isinstance(run, Run)
    assert (run.method, run.regime, run.recipe.training.steps) == ("multilora@2x2", "mixed", 8)
    assert run.weights == old / "run/adapter"
    run.check_finished()
    assert find(str(old / "comparison")) == Comparison(old / "comparison")
    assert find(old / "adapter") == Adapter(old / "adapter")
    assert find(old / "model") == Model(str(old / "model"), old / "model")
    assert find("somebody/model") == Model("somebody/model", None)


def test_a_comparison_has_its_cells(old: Path) -> None:
    found = find(old / "comparison")
    assert isinstance(found, Comparison)
    assert [(cell.method, cell.regime, cell.seed) for cell in found.cells()] == [
        ("lora@4", "mixed", 0),
        ("multilora", "mixed", 0),
    ]
    found.layout.results.unlink()  # interrupted: the names of the folders
    assert [cell.method for cell in found.cells()] == ["lora-4", "multilora"]


def test_an_adapter_knows_its_run(old: Path) -> None:
    for place in ("run/adapter", "run/best", "killed/checkpoints/checkpoint-4"):
        run = Adapter(old / place).run()
        assert run is not None
        assert run.path.name == place.split("/")[0]
    assert Adapter(old / "adapter").run() is None


def test_an_unfinished_run_says_so(old: Path) -> None:
    run = find(old / "killed")
    assert isinstance(run, Run)
    with pytest.raises(InputError, match=r"is not finished: it has no adapter/"):
        run.check_finished()


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(recipe\.yaml\), no comparison \(comparison\.json\), no ad"):
        find(tmp_path)
    with pytest.raises(InputError, match="no model folder"):
        find(tmp_path / "absent")
