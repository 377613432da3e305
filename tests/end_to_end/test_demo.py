"""`make demo`'s script, with a few steps: it trains, adapts and exports, and its export is the adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from places import ROOT


def test_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "examples/demo.py"), str(folder), "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "run/results.json").read_text())
    assert results["steps"] == 3
    assert set(results["tasks"]) == {"last", "add"}
    assert (folder / "lora/adapter_model.safetensors").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert again.returncode == 0, again.stderr  # an earlier demo is replaced


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, str(ROOT / "examples/demo.py"), str(tmp_path), "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not empty and not of an earlier demo" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"
