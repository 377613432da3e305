from __future__ import annotations

from pathlib import Path

from multilora.training.checkpoints import Checkpoints, checkpoint_step


def make(tmp_path: Path, *names: str) -> Checkpoints:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    return Checkpoints(tmp_path)


def test_complete_ones_are_ordered_by_their_step_not_their_name(tmp_path: Path) -> None:
    checkpoints = make(
        tmp_path, "checkpoint-100", "checkpoint-20", ".incomplete/checkpoint-300", "checkpoint-x", "other"
    )
    assert [checkpoint_step(path) for path in checkpoints.complete()] == [20, 100]
    assert checkpoints.last() == tmp_path / "checkpoint-100"


def test_there_may_be_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "nowhere")
    assert checkpoints.complete() == []
    assert checkpoints.last() is None
    checkpoints.clean()
    checkpoints.keep(2)


def test_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    checkpoints = make(
        tmp_path, "checkpoint-1", "checkpoint-2", "checkpoint-30", "checkpoint-4", ".incomplete/checkpoint-5"
    )
    checkpoints.keep(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-30", "checkpoint-4"]
    checkpoints.keep(5)
    assert len(checkpoints.complete()) == 2
