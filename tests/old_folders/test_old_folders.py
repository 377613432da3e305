"""Folders that an older version made are read: runs, a comparison, an adapter, an analysis, a bench.

`fixture/README.md` says what made them. Numbers are compared with a tolerance: other processors round otherwise.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from multilora import MultiLoraConfig
from multilora_cli import main

FIXTURE = Path(__file__).with_name("fixture")
CLOSE: dict[str, float] = {"rel": 1e-3, "abs": 1e-4}

# What the start of that time is called today.
OLD_START = ("--set", "method.scaling_function=linear", "--set", "method.scaling_constant=1")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old folders as the working directory: their paths are relative."""
    shutil.copytree(FIXTURE, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def run(old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The console script in this process and in the old folders: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["multilora", *arguments])
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.run()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    """Plain data, numbers within `CLOSE`. What is new in a dictionary is no fault."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        for key, value in expected.items():
            assert key in found, f"{where}.{key}"
            assert_close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, f"{where}[{number}]")
    elif isinstance(expected, float) and not math.isnan(expected):
        assert found == pytest.approx(expected, **CLOSE), where
    elif not isinstance(expected, float):
        assert found == expected, where


# A run --------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_known_to_be_finished(old: Path, run: Run) -> None:
    before = contents(old / "run")
    code, out, err = run("train", "recipe.yaml", *OLD_START, "--resume")
    assert (code, err) == (0, "")
    assert "finished before; nothing to do" in out
    figures = read(old / "run" / "results.json")
    assert f"loss {figures['final_loss']:.4f} after 8 steps" in out
    assert contents(old / "run") == before


def test_a_finished_run_is_not_replaced_unasked_and_not_mixed(old: Path, run: Run) -> None:
    before = contents(old / "run")
    code, _, err = run("train", "recipe.yaml")
    assert code == 2
    assert "holds a run already; resume it (--resume, resume=True)" in err
    code, _, err = run("train", "recipe.yaml", "--set", "method.r=4", "--resume")
    assert code == 2
    assert "method.r 2 and 4" in err
    assert contents(old / "run") == before


def test_a_run_is_not_resumed_with_another_start(old: Path, run: Run) -> None:
    """The recipe says nothing of the start, whose default has changed since."""
    code, _, err = run("train", "recipe.yaml", "--set", "training.output=killed", "--resume")
    assert code == 2
    assert "method.scaling_function 'linear' and 'tanh'" in err
    assert "method.scaling_constant 1.0 and 2000.0" in err


def test_a_killed_run_goes_on(old: Path, run: Run) -> None:
    code, out, err = run("train", "recipe.yaml", *OLD_START, "--set", "training.output=killed", "--resume")
    assert (code, err) == (0, "")
    assert "resuming from killed/checkpoints/checkpoint-4" in out
    whole, gone_on = (load_file(old / name / "adapter" / "adapter_model.safetensors") for name in ("run", "killed"))
    assert whole.keys() == gone_on.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(
            gone_on[name], tensor, rtol=1e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    for file in ("metrics.jsonl", "validation.jsonl"):
        timeless = [
            [{key: value for key, value in line.items() if "second" not in key} for line in lines(old / name / file)]
            for name in ("killed", "run")
        ]
        assert_close(*timeless, file)
    assert read(old / "killed" / "results.json")["recipe_hash"] == read(old / "run" / "results.json")["recipe_hash"]


@pytest.mark.parametrize(("target", "options"), [("run", ()), ("run/adapter", ("--recipe", "run/recipe.yaml"))])
def test_a_run_is_evaluated(old: Path, run: Run, target: str, options: tuple[str, ...]) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")
    code, out, err = run("eval", target, *options, "--max-new-tokens", "4", "--out", "again")
    assert (code, err) == (0, "")
    assert "results again" in out
    found, expected = (read(old / name / "results.json") for name in ("again", "run/eval-test"))
    timeless = {name: {k: v for k, v in task.items() if k != "seconds"} for name, task in expected["tasks"].items()}
    assert_close(found["tasks"], timeless)
    if target == "run":  # and not where the old record is given as a recipe, which means today's start
        assert found["recipe_hash"] == expected["recipe_hash"]
    for name in ("split", "limit", "max_length", "max_new_tokens", "dtype"):
        assert found[name] == expected[name], name
    files = sorted(path.name for path in (old / "run" / "eval-test" / "predictions").iterdir())
    assert files == ["choices.jsonl", "words.jsonl"]
    for name in files:
        assert_close(*(lines(old / folder / "predictions" / name) for folder in ("again", "run/eval-test")), name)


def test_an_old_evaluation_is_known_as_one(old: Path, run: Run) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")
    command = ("eval", "run", "--tasks", "choices", "--limit", "2")
    code, _, err = run(*command)
    assert code == 2
    assert "is not empty" in err
    assert "--overwrite" in err
    assert run(*command, "--overwrite")[0] == 0
    assert read(old / "run" / "eval-test" / "results.json")["limit"] == 2


def test_a_run_answers(old: Path, run: Run) -> None:
    prompts = ("--prompt", "one two", "--prompt", "seven")
    code, _, _ = run("generate", "run", *prompts, "--base", "--max-new-tokens", "6", "--out", "answers.jsonl")
    assert code == 0
    found = [{key: line[key] for key in ("prompt", "model", "text")} for line in lines(old / "answers.jsonl")]
    assert found == read(old / "expected.json")["answers"]


# Adapters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["adapter", "run/adapter"])
def test_peft_loads_an_adapter(old: Path, adapter: str) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("model"), adapter).eval()
    assert isinstance(model.peft_config["default"], MultiLoraConfig)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 19).reshape(2, 8)).logits[:, -1, ::35].flatten()
    assert logits.tolist() == pytest.approx(read(old / "expected.json")["logits"][adapter], abs=1e-3)


@pytest.mark.parametrize(
    "adapter", ["adapter", "run/adapter", "run/best", "comparison/cells/lora-4/mixed/seed-0/adapter"]
)
def test_an_adapter_is_merged(old: Path, run: Run, adapter: str) -> None:
    code, out, err = run("merge", "model", adapter, "merged", "--verify")
    assert code == 0
    assert "error" not in err
    assert "verified: logits differ" in out
    assert (old / "merged" / "merge_report.json").is_file()


def test_an_adapter_is_exported(old: Path, run: Run) -> None:
    tokens = torch.arange(3, 19).reshape(2, 8)
    for adapter in ("adapter", "run/adapter"):
        out = f"{adapter.replace('/', '-')}-lora"
        code, printed, _ = run("export", adapter, out)
        assert code == 0
        assert "exact" in printed
        theirs, ours = (
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("model"), folder).eval()
            for folder in (out, adapter)
        )
        with torch.no_grad():
            torch.testing.assert_close(
                theirs(input_ids=tokens).logits, ours(input_ids=tokens).logits, rtol=1e-4, atol=1e-4
            )
    assert run("export", "run/adapter", "mlx", "--format", "mlx")[0] == 0


# A comparison, an analysis, a bench ---------------------------------------------------------------------------------


def test_a_finished_comparison_is_known_to_be_finished(old: Path, run: Run) -> None:
    pytest.importorskip("lm_eval", reason="a comparison needs the extra `eval`")
    before = contents(old / "comparison")
    code, out, err = run("compare", "comparison.yaml", *OLD_START, "--out", "comparison", "--no-analysis")
    assert (code, err) == (0, "")
    assert "2 of 2 cells were done before" in out
    after = contents(old / "comparison")
    for content in (before, after):
        content["results.json"] = b""  # written again, from the cells
    assert after == before
    assert_close(read(old / "comparison" / "results.json"), read(FIXTURE / "comparison" / "results.json"))


def test_another_recipe_is_not_mixed_with_a_comparison(old: Path, run: Run) -> None:
    pytest.importorskip("lm_eval", reason="a comparison needs the extra `eval`")
    code, _, err = run("compare", "comparison.yaml", *OLD_START, "--out", "comparison", "--set", "training.steps=5")
    assert code == 2
    assert "holds the comparison of another recipe (recipe.training.steps differ)" in err


def test_everything_is_analysed_into_an_old_analysis(old: Path, run: Run) -> None:
    code, out, _ = run("analyze", "comparison", "run", "adapter", "--bench", "bench", "--out", "analysis")
    assert code == 0
    assert out.splitlines()[-1] == "page analysis/report.html"
    found, expected = (read(folder / "analysis" / "analysis.json") for folder in (old, FIXTURE))
    assert list(found["runs"]) == list(expected["runs"]) == ["lora@4 seed 0", "multilora seed 0", "run", "adapter"]
    places = [[(m["run"], m["layer"]) for m in data["matrices"]] for data in (found, expected)]
    assert places[0] == places[1]
    measures = [[m["measures"] for m in data["matrices"]] for data in (found, expected)]
    assert_close(*measures, "measures")
    tables = [pq.read_table(folder / "analysis" / "analysis.parquet") for folder in (old, FIXTURE)]
    assert tables[0].num_rows == tables[1].num_rows
    assert set(tables[1].column_names) <= set(tables[0].column_names)
    page = (old / "analysis" / "report.html").read_text(encoding="utf-8")
    for part in ('id="results"', 'id="spectra"', 'id="bench-memory"'):
        assert part in page


# The fixture --------------------------------------------------------------------------------------------------------


def test_the_recipes_of_old_runs_are_recipes(old: Path, run: Run) -> None:
    for recipe in ("run/recipe.yaml", "killed/recipe.yaml", "comparison/cells/multilora/mixed/seed-0/recipe.yaml"):
        code, out, err = run("plan", recipe, "--json")
        assert (code, err) == (0, ""), recipe
        assert json.loads(out)["parameters"]["base"] == 12_880
    assert yaml.safe_load((old / "run" / "recipe.yaml").read_text())["method"]["num_loras"] == 2


def test_the_fixture_is_small_and_names_no_place() -> None:
    files = contents(FIXTURE)
    assert sum(map(len, files.values())) < 600_000
    for name, content in files.items():
        if name != "README.md":
            assert not any(place.encode() in content for place in (gettempdir(), str(FIXTURE.parents[2]))), name
