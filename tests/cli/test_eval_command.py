"""`multilora eval`: runs, adapters and models, what is written and printed, and exit codes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from console import Run, multilora
from tasks.formats import made_up, write_lines
from tiny_run import make_model

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")

KINDS: tuple[str, ...] = ("rte", "multirc", "gsm8k", "alpaca")


@pytest.fixture
def run() -> Run:
    """The console script in this process: exit code, stdout, stderr."""
    return partial(multilora, columns=160)


def write_recipe(folder: Path, kinds: tuple[str, ...] = KINDS, name: str = "lora", **training: Any) -> Path:
    """A recipe on made-up data with its model in the folder."""
    if not (folder / "base").exists():
        make_model(folder / "base", max_position_embeddings=256)
    for kind in kinds:
        if not (folder / kind).exists():
            made_up(kind, folder / kind)
    recipe = {
        "model": str(folder / "base"),
        "method": {"name": "full"} if name == "full" else {"name": "multilora", "r": 4, "num_loras": 2},
        "tasks": {kind: {"task": kind, "folder": str(folder / kind)} for kind in kinds},
        "training": {
            "output": str(folder / "run"),
            "steps": 2,
            "learning_rate": 0.05,
            "max_length": 256,
            "precision": "fp32",
            **training,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture
def trained(tmp_path: Path, run: Run) -> Path:
    """A finished run."""
    assert run("train", write_recipe(tmp_path))[0] == 0
    return tmp_path / "run"


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions" / f"{task}.jsonl").read_text().splitlines()]


def without_times(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: without_times(value) for key, value in data.items() if key != "seconds"}
    return data


QUICK = ("--max-new-tokens", "4")


def test_a_run_on_its_own_tasks(run: Run, trained: Path) -> None:
    code, out, err = run("eval", trained, *QUICK)
    assert (code, err) == (0, "")
    folder = trained / "eval-test"
    found = results(folder)
    assert list(found["tasks"]) == list(KINDS)
    assert found["adapter"] == str(trained / "adapter")
    assert found["dtype"] == "float32"
    assert found["recipe_hash"] == results(trained)["recipe_hash"]
    assert found["versions"]["lm_eval"]
    for name, metrics in (
        ("rte", ["accuracy"]),
        ("multirc", ["f1_over_answers", "exact_match_of_questions"]),
        ("gsm8k", ["exact_match"]),
    ):
        task = found["tasks"][name]
        assert list(task["metrics"]) == metrics
        for score in task["metrics"].values():
            assert set(score) == {"value", "standard_error", "interval", "count"}
            assert score["interval"][0] <= score["value"] <= score["interval"][1]
        records = predictions(folder, name)
        assert len(records) == task["scored"] == task["rows"] == (6 if name == "multirc" else 2)
        assert task["long_prompts"]["share"] == 0.0
    assert "free text" in found["tasks"]["alpaca"]["not_scored"]
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == [
        "gsm8k.jsonl",
        "multirc.jsonl",
        "rte.jsonl",
    ]
    record = predictions(folder, "rte")[0]
    assert set(record) == {"id", "group", "choices", "log_likelihoods", "predicted", "answers", "right"}
    assert record["right"] == (record["predicted"] in record["answers"])
    assert {"id", "group", "generated", "predicted", "answers", "right"} <= set(predictions(folder, "gsm8k")[0])

    lines = out.splitlines()
    assert any(line.split()[:2] == ["rte", "accuracy"] and " ± " in line and " to " in line for line in lines)
    assert "alpaca is not scored: free text, for which the task has no score" in lines
    assert lines[-1] == f"results {folder}"
    assert "\x1b" not in out


def test_the_same_command_twice_gives_the_same_results(run: Run, trained: Path) -> None:
    command = ("eval", trained, "--tasks", "rte,gsm8k", *QUICK)
    assert run(*command)[0] == 0
    first, records = results(trained / "eval-test"), predictions(trained / "eval-test", "rte")
    code, _, err = run(*command)
    assert code == 2
    assert "is not empty" in err
    assert "--overwrite" in err
    assert results(trained / "eval-test") == first
    assert run(*command, "--overwrite")[0] == 0
    assert without_times(results(trained / "eval-test")) == without_times(first)
    assert predictions(trained / "eval-test", "rte") == records


def test_what_is_not_ours_is_never_overwritten(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    code, _, err = run("eval", trained, "--out", tmp_path / "out", "--overwrite")
    assert code == 2
    assert "thesis.tex" in err
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"


def test_a_failure_leaves_the_earlier_results(run: Run, trained: Path) -> None:
    assert run("eval", trained, "--tasks", "rte", "--limit", "1")[0] == 0
    before = results(trained / "eval-test")
    code, _, err = run(
        "eval", trained, "--tasks", "rte", "--on-long-prompt", "fail", "--max-length", "10", "--overwrite"
    )
    assert code == 2
    assert "needs" in err
    assert "on_long_prompt to drop" in err
    assert results(trained / "eval-test") == before
    assert [path.name for path in trained.iterdir() if "incomplete" in path.name] == []


def test_the_base_of_an_adapter(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("eval", trained, "--tasks", "rte")[0] == 0
    assert run("eval", trained, "--tasks", "rte", "--base")[0] == 0
    assert (
        run("eval", tmp_path / "base", "--recipe", trained / "recipe.yaml", "--tasks", "rte", "--out", tmp_path / "b")[
            0
        ]
        == 0
    )
    adapted, base, model = (
        predictions(folder, "rte") for folder in (trained / "eval-test", trained / "eval-test-base", tmp_path / "b")
    )
    assert base == model
    assert [record["log_likelihoods"] for record in adapted] != [record["log_likelihoods"] for record in base]
    assert results(trained / "eval-test-base")["adapter"] is None


def test_an_adapters_folder_with_a_recipe(run: Run, trained: Path) -> None:
    assert run("eval", trained, "--tasks", "rte")[0] == 0
    code, out, _ = run("eval", trained / "adapter", "--recipe", trained / "recipe.yaml", "--tasks", "rte")
    assert code == 0
    assert out.splitlines()[-1] == f"results {trained / 'adapter-eval-test'}"
    assert predictions(trained / "adapter-eval-test", "rte") == predictions(trained / "eval-test", "rte")
    code, _, err = run("eval", trained / "adapter")
    assert code == 2
    assert "nothing says which tasks" in err
    assert "--recipe" in err


def test_an_export_is_evaluated_like_its_adapter(run: Run, trained: Path) -> None:
    assert run("export", trained / "adapter", trained / "lora")[0] == 0
    recipe = ("--recipe", trained / "recipe.yaml", "--tasks", "rte")
    assert run("eval", trained / "lora", *recipe)[0] == 0
    assert run("eval", trained / "adapter", *recipe)[0] == 0
    ours, theirs = (predictions(trained / f"{name}-eval-test", "rte") for name in ("adapter", "lora"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-4)


def test_full_fine_tuning_and_its_base(run: Run, tmp_path: Path) -> None:
    assert run("train", write_recipe(tmp_path, ("rte",), "full"))[0] == 0
    folder = tmp_path / "run"
    assert run("eval", folder)[0] == 0
    assert run("eval", folder, "--base")[0] == 0
    assert results(folder / "eval-test")["model"] == str(folder / "model")
    assert results(folder / "eval-test-base")["model"] == str(tmp_path / "base")
    assert predictions(folder / "eval-test", "rte") != predictions(folder / "eval-test-base", "rte")


def test_a_model_is_evaluated_in_the_dtype_that_it_was_trained_in(run: Run, tmp_path: Path) -> None:
    assert run("train", write_recipe(tmp_path, ("rte",), precision="bf16"))[0] == 0
    assert run("eval", tmp_path / "run")[0] == 0
    assert results(tmp_path / "run" / "eval-test")["dtype"] == "bfloat16"
    values = predictions(tmp_path / "run" / "eval-test", "rte")[0]["log_likelihoods"]
    assert torch.tensor(values).bfloat16().tolist() != values  # summed up in fp32


def test_a_checkpoint_of_a_run_that_goes_on(run: Run, trained: Path) -> None:
    (checkpoint,) = (trained / "checkpoints").glob("checkpoint-*")
    assert (
        run("eval", checkpoint, "--recipe", trained / "recipe.yaml", "--tasks", "rte", "--out", trained / "out")[0] == 0
    )
    assert run("eval", trained, "--tasks", "rte")[0] == 0
    assert predictions(trained / "out", "rte") == predictions(trained / "eval-test", "rte")


def test_limits_and_splits(run: Run, trained: Path) -> None:
    code, out, _ = run("eval", trained, "--tasks", "rte,multirc", "--limit", "1")
    assert code == 0
    assert "rte: evaluating 1 rows" in out
    found = results(trained / "eval-test")
    assert found["tasks"]["rte"]["metrics"]["accuracy"]["standard_error"] is None
    assert found["tasks"]["multirc"]["rows"] == 3  # a question is taken whole
    code, _, err = run("eval", trained, "--tasks", "rte", "--split", "validation")
    assert code == 2
    assert "no task can be scored" in err
    assert "set tasks.rte.validation_share" in err


def test_long_prompts_are_told(run: Run, trained: Path) -> None:
    code, out, _ = run("eval", trained, "--tasks", "rte", "--max-length", "10")
    assert code == 0
    assert "rte: 2 of 2 rows (100.0 %) do not fit into 10 tokens: dropped" in out
    assert "rte has no score: none of its 2 rows fits into 10 tokens; --on-long-prompt truncate_left" in out
    task = results(trained / "eval-test")["tasks"]["rte"]
    assert task["metrics"]["accuracy"] == {"value": None, "standard_error": None, "interval": None, "count": 0}
    assert (task["rows"], task["scored"]) == (2, 0)
    code, out, _ = run(
        "eval", trained, "--tasks", "rte", "--max-length", "10", "--on-long-prompt", "truncate_left", "--overwrite"
    )
    assert code == 0
    assert results(trained / "eval-test")["tasks"]["rte"]["scored"] == 2


def test_bad_rows_are_as_the_recipe_says(run: Run, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "rte" / "val.jsonl"
    file.write_text(file.read_text() + '{"premise": "p"}\n')
    code, _, err = run("eval", trained, "--tasks", "rte")
    assert code == 2
    assert "val.jsonl line 3: no field 'hypothesis'" in err
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    recipe["tasks"]["rte"]["on_bad_row"] = "skip"
    (tmp_path / "lenient.yaml").write_text(yaml.safe_dump(recipe))
    code, out, _ = run("eval", trained, "--recipe", tmp_path / "lenient.yaml", "--tasks", "rte")
    assert code == 0
    assert "rte: 1 bad rows skipped: val.jsonl line 3" in out
    assert results(trained / "eval-test")["tasks"]["rte"]["bad_rows"]["count"] == 1


# Bad input --------------------------------------------------------------------------------------------------------


def refused(run: Run, *arguments: str | Path) -> str:
    code, out, err = run("eval", *arguments)
    assert code == 2, out
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def harness_index() -> Any:
    """The harness's index of its tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@pytest.fixture
def _one_index(harness_index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: harness_index)


@pytest.mark.usefixtures("_one_index")
def test_unknown_tasks_have_nearest_names_of_both(run: Run, trained: Path) -> None:
    err = refused(run, trained, "--tasks", "rtee")
    assert "no task 'rtee', neither in the recipe nor in lm-evaluation-harness" in err
    assert "nearest: " in err
    assert "'rte'" in err
    assert not (trained / "eval-test").exists()


@pytest.mark.usefixtures("_one_index")
def test_a_task_of_the_harness_whose_data_is_not_here(run: Run, trained: Path) -> None:
    err = refused(run, trained, "--tasks", "rte,hellaswag")
    assert not (trained / "eval-test").exists()
    assert err.startswith("error: hellaswag: the data of the harness's own task cannot be had")
    assert len(err.splitlines()) == 1


def test_missing_files_are_all_named_before_anything_is_loaded(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rte" / "val.jsonl").unlink()
    (tmp_path / "gsm8k" / "test.jsonl").unlink()
    err = refused(run, trained)
    assert err.count("cannot read") == 2


def test_things_that_are_nothing(run: Run, trained: Path, tmp_path: Path) -> None:
    recipe = ("--recipe", trained / "recipe.yaml")
    (tmp_path / "empty").mkdir()
    err = refused(run, tmp_path / "empty", *recipe)
    assert (
        "holds no run (recipe.yaml), no comparison (comparison.json), no adapter (adapter_config.json) and no model"
        in err
    )
    assert "no model folder" in refused(run, tmp_path / "nothing", *recipe)
    assert "--base has no effect" in refused(run, tmp_path / "base", *recipe, "--base")
    assert "nothing says which tasks" in refused(run, tmp_path / "base")
    assert "--batch-size" in refused(run, trained, "--batch-size", "many")
    assert "the model takes 256 tokens at most; got 999" in refused(run, trained, "--max-length", "999")


def test_a_run_that_is_not_finished(run: Run, trained: Path) -> None:
    (trained / "adapter").rename(trained / "elsewhere")
    err = refused(run, trained)
    assert "is not finished: it has no adapter/" in err
    assert "--resume" in err


@pytest.mark.parametrize("plain", [False, True])
def test_adapters_that_do_not_fit(plain: bool, run: Run, trained: Path, tmp_path: Path) -> None:
    folder = trained / ("lora" if plain else "adapter")
    if plain:
        assert run("export", trained / "adapter", folder)[0] == 0
    arguments = (folder, "--recipe", trained / "recipe.yaml", "--tasks", "rte")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = sorted(tensors)[0]
    stranger = first.replace("layers.0", "layers.7")
    fault = f"does not fit the model '{tmp_path / 'base'}': "
    missing = "Found missing adapter keys" if plain else "is not whole"
    for content, why in (
        ({key: value for key, value in tensors.items() if key != first}, missing),
        (tensors | {stranger: tensors[first].clone()}, stranger),
        (tensors | {first: tensors[first][:1].clone()}, ""),
    ):
        save_file(content, file)
        err = refused(run, *arguments)
        assert fault in err
        assert why in err
    file.write_bytes(file.read_bytes()[:-100])
    assert fault in refused(run, *arguments)
    file.unlink()
    assert fault in refused(run, *arguments)


def test_an_adapter_without_a_base(run: Run, trained: Path) -> None:
    file = trained / "adapter" / "adapter_config.json"
    for content, why in (
        ("{", "cannot be read"),
        (json.dumps({"peft_type": "LORA"}), "base_model_name_or_path is None"),
    ):
        file.write_text(content)
        assert why in refused(run, trained / "adapter", "--tasks", "rte")


def test_a_jsonl_recipe_has_nothing_to_score(run: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"q": "one", "a": "two"}] * 8)
    recipe = yaml.safe_load(write_recipe(tmp_path).read_text())
    recipe["tasks"] = {"a": {"train": str(tmp_path / "a.jsonl"), "prompt": "{q}", "completion": " {a}"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    err = refused(run, tmp_path / "base", "--recipe", tmp_path / "recipe.yaml")
    assert "no task can be scored" in err
    assert "a: free text" in err
