from __future__ import annotations

from pathlib import Path

import pytest

from disk_events import Moment, failing_at
from multilora.storage.folders import replace_folder, replaced_name, restore_replaced, write_text, written_aside


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with written_aside(final) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "file").write_text("x")
        assert not final.exists()
        assert aside.parent == tmp_path
    assert (final / "sub" / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    final = folder(tmp_path / "final", "old")

    def write_half() -> None:
        with written_aside(final) as aside:
            (aside / "file").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (final / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_leftovers_of_a_killed_writer_are_not_in_the_new_folder(tmp_path: Path) -> None:
    folder(tmp_path / ".final.incomplete", "left")
    with written_aside(tmp_path / "final") as aside:
        assert list(aside.iterdir()) == []


def test_a_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "one")
    write_text(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_text_that_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "f", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("before", ["absent", "empty", "full"])
def test_a_folder_replaces_another(tmp_path: Path, before: str) -> None:
    target = tmp_path / "target"
    if before != "absent":
        target.mkdir()
    if before == "full":
        (target / "old").write_text("old")
    replace_folder(target, by=folder(tmp_path / "new", "new"))
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    target, new = folder(tmp_path / "target", "old"), folder(tmp_path / "new", "new")
    with failing_at(Moment("new", "rename"), KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        replace_folder(target, by=new)
    assert not target.exists()
    restore_replaced(target)
    assert (target / "file").read_text() == "old"
    assert not replaced_name(target).exists()
    restore_replaced(target)
    assert (target / "file").read_text() == "old"
