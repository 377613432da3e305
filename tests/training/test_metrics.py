from __future__ import annotations

import json
from pathlib import Path

import pytest

from multilora import InputError
from multilora.runs.records import MetricsLine
from multilora.training.metrics import cut_lines


def write(path: Path, steps: list[int], rest: str = "") -> Path:
    rate = {"tokens": 5, "tokens_per_second": 2.5, "seconds": 2.0}
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0, **rate}) + "\n" for step in steps) + rest)
    return path


def test_lines_beyond_the_step_are_cut_so_that_each_step_stands_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m", [2, 4, 5, 6], '{"ste')
    before = path.read_text().splitlines(keepends=True)
    assert [line.step for line in cut_lines(MetricsLine, path, 4)] == [2, 4]
    assert path.read_text() == "".join(before[:2])
    assert cut_lines(MetricsLine, path, 0) == []
    assert path.read_text() == ""


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert cut_lines(MetricsLine, tmp_path / "m", 5) == []


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m", [2], '{"step": 4, "loss": "low"}\n')
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"m, line 2': loss: .*; got 'low'"):
        cut_lines(MetricsLine, path, 4)
    assert path.read_bytes() == before
