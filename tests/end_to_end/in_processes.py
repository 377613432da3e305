"""What tests of several processes share: torchrun, jobs of one torchrun, and comparing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from places import ROOT
from tiny_run import make_recipe, read_lines


def torchrun(*arguments: str, folder: Path, processes: int = 2) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def multilora(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return torchrun("-m", "multilora_cli.main", "train", *arguments, folder=folder)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and metrics of a finished run."""
    (weights,) = (*folder.glob("adapter/adapter_model.safetensors"), *folder.glob("model/model.safetensors"))
    lines = read_lines(folder / "metrics.jsonl")
    for line in lines:
        del line["seconds"], line["tokens_per_second"]
    return load_file(weights), lines


def assert_equal(folder: Path, expected: Path) -> None:
    """Bit for bit, and no file more or less."""
    (weights, lines), (expected_weights, expected_lines) = outcome(folder), outcome(expected)
    assert lines == expected_lines
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(tensor, expected_weights[name]) for name, tensor in weights.items())
    assert files_of(folder) == files_of(expected)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_close(folder: Path, expected: Path) -> None:
    (weights, lines), (expected_weights, expected_lines) = outcome(folder), outcome(expected)
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected_weights[name], rtol=0, atol=1e-5), name
    assert len(lines) == len(expected_lines)
    for line, expected_line in zip(lines, expected_lines, strict=True):
        tasks, expected_tasks = line.pop("tasks"), expected_line.pop("tasks")
        assert line == pytest.approx(expected_line, abs=1e-5)
        assert tasks.keys() == expected_tasks.keys()
        for name, task in tasks.items():
            assert task == pytest.approx(expected_tasks[name], abs=1e-5)


@dataclass(frozen=True)
class Runs:
    """What the jobs of one torchrun left in a folder, and what one process trained beside."""

    folder: Path

    def of_two(self, name: str) -> Path:
        return self.folder / "two" / name

    def of_one(self, name: str) -> Path:
        return self.folder / "one" / name

    def errors(self, name: str) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob(f"{name}.*.txt"))]


def settings(folder: Path, name: str, processes: int, overrides: Sequence[str]) -> list[str]:
    """A run of 4 rows to a step and forward pass, in `one` or `two`."""
    place = folder / ("one" if processes == 1 else "two") / name
    return [f"training.batch_size={4 // processes}", f"training.output={place}", *overrides]


class Jobs:
    """What two processes are to do, one job after the other (see jobs_in_processes.py)."""

    def __init__(self, folder: Path) -> None:
        (folder / "general.txt").write_text("one two three and so on, " * 9)
        self._folder = folder
        self._jobs: list[dict[str, Any]] = []

    def recipe(self, name: str, method: dict[str, Any]) -> Path:
        path = make_recipe(self._folder, method, log_every=1, learning_rate=0.005)
        return path.rename(self._folder / f"{name}.yaml")

    def add(self, recipe: Path, name: str, overrides: Sequence[str], **more: Any) -> None:
        given = settings(self._folder, name, 2, overrides)
        self._jobs.append({"recipe": str(recipe), "name": name, "set": given, **more})

    def run(self) -> Runs:
        (self._folder / "jobs.json").write_text(json.dumps(self._jobs))
        process = torchrun(str(ROOT / "tests/end_to_end/jobs_in_processes.py"), "jobs.json", folder=self._folder)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return Runs(self._folder)
