"""`make demo`, as the Makefile has it, with a few steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT


@pytest.fixture
def commands() -> list[str]:
    """The lines of the Makefile's demo."""
    (recipe,) = re.findall(r"^demo: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [line.replace("$(BIN)", str(Path(sys.executable).parent)) for line in recipe.splitlines()]


def test_demo(commands: list[str], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the demo needs the extra `eval`")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    few = " --set training.steps=2 --set training.log_every=1 --set validation.limit=2 --limit 2"
    for line in commands:
        done = subprocess.run(
            line + (few if "compare" in line else ""),
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "demo_run/comparison/results.json").read_text())
    assert set(results["methods"]) == {"full", "lora@24", "multilora"}
    assert len(results["regimes"]["mixed"]["metrics"]) == 8
    assert all(method["forgetting"] for method in results["methods"].values())
    assert "demo_run/comparison/analysis/report.html" in done.stdout
    assert (tmp_path / "demo_run/comparison/analysis/report.html").is_file()
