"""`benchmarks/spectrum.py` at toy size: what it writes. Never the times."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import spectrum


def test_the_record(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    output = tmp_path / "spectrum.json"
    spectrum.main(["--quick", "--output", str(output)])
    torch.set_num_threads(threads)
    record = json.loads(output.read_text())
    pair, adapter = record["groups"]
    assert adapter["matrices"] == 2 * 7
    assert adapter["peak_bytes"] >= adapter["bytes_before"] > 0
    assert set(pair["difference"]) == {"fp32", "fp64"}
    assert max(pair["difference"].values()) < 1e-5
    assert {name: len(times) for name, times in pair["samples"].items()} == {"fp32": 5, "fp64": 5, "dense": 2}
    assert record["targets"] == []  # a toy run claims nothing
    assert str(tmp_path) not in output.read_text()
    assert "factors" in output.with_suffix(".txt").read_text()
