"""`multilora compare` as a user runs it: cells in processes of their own, continued after a kill, never mixed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from console import Ended, multilora
from tiny_run import make_recipe

pytest.importorskip("lm_eval", reason="a comparison needs the extra `eval`")

TIMES = {"tokens_per_second", "peak_memory_bytes"}


def make(folder: Path, **training: Any) -> Path:
    """A recipe of one task with two choices, compared as LoRA and as MultiLoRA of equal rank."""
    path = make_recipe(folder, **training)
    for split, words in (("train", ["one", "two", "three"]), ("test", ["four", "five", "six"])):
        rows = [{"q": f"{word} {n}", "a": n % 2} for n, word in enumerate(words * 20)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = yaml.safe_load(path.read_text())
    data["method"] = {"name": "multilora", "r": 2, "num_loras": 2}
    data["tasks"] = {
        "c": {
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "prompt": "{q}:",
            "choices": [" one", " two"],
            "answer": "a",
        }
    }
    data["comparison"] = {"methods": {"lora@4": {}, "multilora": {}}, "limit": 20}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "multilora_cli.main", "compare", *arguments]


def compare(*arguments: str) -> Ended:
    return multilora("compare", *arguments, columns=200)


def results(folder: Path) -> dict[str, Any]:
    """The results without what no two runs share."""
    data = json.loads((folder / "results.json").read_text())
    for method in data["methods"].values():
        for name in TIMES:
            method.pop(name, None)
    return data


def predictions(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("predictions/*.jsonl"))}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A recipe, the folder of its finished comparison, and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    path = make(folder)
    ended = compare(str(path), "--out", str(folder / "out"))
    assert ended.code == 0, ended.err
    return path, folder / "out", ended.out


def test_every_method_is_trained_tested_and_shown(done: tuple[Path, Path, str]) -> None:
    _, out, printed = done
    found = results(out)
    scores = found["regimes"]["mixed"]["scores"]
    assert set(scores) == {"lora@4", "multilora"}
    for name, folder in (("lora@4", "lora-4"), ("multilora", "multilora")):
        cell = out / "cells" / folder / "mixed" / "seed-0"
        tested = json.loads((cell / "eval-test" / "results.json").read_text())["tasks"]["c"]
        assert scores[name]["c"]["mean"] == scores[name]["average"]["mean"] == tested["metrics"]["accuracy"]["value"]
        assert tested["scored"] == 20
        assert not (cell / "checkpoints").exists()
    (difference,) = found["regimes"]["mixed"]["differences"]
    assert (difference["method"], difference["minus"]) == ("multilora", "lora@4")
    expected = scores["multilora"]["c"]["mean"] - scores["lora@4"]["c"]["mean"]
    assert difference["tasks"]["average"]["mean"] == pytest.approx(expected)
    assert difference["tasks"]["average"]["p_value"] is None  # one seed
    assert "multilora minus lora@4 (equal rank)" in printed
    assert str(out) in printed


def test_what_is_done_is_not_repeated_and_seeds_may_be_added(done: tuple[Path, Path, str]) -> None:
    path, out, _ = done
    before = {file: file.stat().st_mtime_ns for file in out.glob("cells/**/results.json")}
    ended = compare(str(path), "--out", str(out))
    assert ended.code == 0, ended.err
    assert "2 of 2 cells were done before" in ended.out
    assert before == {file: file.stat().st_mtime_ns for file in out.glob("cells/**/results.json")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.steps=5"], r"holds the comparison of another recipe (recipe.training.steps differ)"),
        (["--limit", "3"], "(limit differ)"),
        (["--set", "comparison.methods.multilora.learning_rate=0.5"], "never mixed"),
        (["--methods", "multilroa"], "unknown method 'multilroa'; nearest: 'multilora'"),
    ],
)
def test_results_of_different_recipes_are_never_mixed(
    done: tuple[Path, Path, str], arguments: list[str], message: str
) -> None:
    path, out, _ = done
    before = results(out)
    ended = compare(str(path), "--out", str(out), *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert results(out) == before


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    # The target modules of the second method match nothing.
    path = make(tmp_path, steps=2)
    ended = compare(str(path), "--out", str(tmp_path / "out"), "--methods", "multilora:target_modules=[nothing],lora@4")
    assert ended.code == 1
    assert "failed: multilora:target_modules=[nothing], seed 0: method: " in ended.err
    found = results(tmp_path / "out")
    assert list(found["regimes"]["mixed"]["scores"]) == ["lora@4"]


@pytest.mark.full
def test_a_comparison_that_is_killed_ends_as_one_that_is_not(done: tuple[Path, Path, str], tmp_path: Path) -> None:
    path, out, _ = done
    for wait_for in ("checkpoints/checkpoint-4", "adapter"):  # in the first cell's training, and about its testing
        elsewhere = tmp_path / wait_for.partition("/")[0]
        process = subprocess.Popen(command(str(path), "--out", str(elsewhere)), stdout=subprocess.DEVNULL)
        target = elsewhere / "cells" / "lora-4" / "mixed" / "seed-0" / wait_for
        while not target.exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # the cell ends with its parent
        ended = compare(str(path), "--out", str(elsewhere))
        assert ended.code == 0, ended.err
        assert results(elsewhere) == results(out)
        assert predictions(elsewhere) == predictions(out)
