"""`benchmarks/merge.py` at toy size: what it writes, and its peak memory. Never the times."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import merge


def test_the_record(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    output = tmp_path / "merge.json"
    merge.main(["--quick", "--folder", str(tmp_path), "--output", str(output)])
    torch.set_num_threads(threads)
    record = json.loads(output.read_text())
    (group,) = record["groups"]
    assert set(group["samples"]) == {"copy", "merge", "merge_with_report"}
    for kind, runs in group["samples"].items():
        assert len(runs) == record["options"]["repeats"] == 1
        for run in runs:
            assert run["seconds"] > 0
            if kind != "copy":
                assert run["size"] == group["bytes"]
                assert run["adapted"] == 7 * record["options"]["layers"]
                assert run["peak_bytes"] >= run["bytes_before"] > 0
    seconds = {kind: group["samples"][kind][0]["rounding_seconds"] for kind in ("merge", "merge_with_report")}
    assert 0 == seconds["merge"] < seconds["merge_with_report"]
    assert group["peak_bytes"] <= group["peak_limit"]
    assert record["targets"] == []  # a toy run claims nothing
    assert str(tmp_path) not in output.read_text()
    assert "plain copy of the files" in output.with_suffix(".txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"merge.json", "merge.txt"}
