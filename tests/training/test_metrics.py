from __future__ import annotations

import json
from pathlib import Path

from multilora.training.metrics import cut_metrics, read_metrics


def write(path: Path, steps: list[int], rest: str = "") -> Path:
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps) + rest)
    return path


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "m", [1, 2], '{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_lines_beyond_the_step_are_cut_so_that_each_step_stands_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m", [2, 4, 5, 6], '{"ste')
    assert [line["step"] for line in cut_metrics(path, 4)] == [2, 4]
    assert [line["step"] for line in read_metrics(path)] == [2, 4]
    assert cut_metrics(path, 0) == []
    assert path.read_text() == ""


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "m") == []
    assert cut_metrics(tmp_path / "m", 5) == []
