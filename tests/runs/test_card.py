"""The model card of a run: what it was trained on, how, and how it scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from multilora.evaluation.card import renew_card
from multilora.recipe import Recipe
from multilora.runs.card import CardScore, write_run_card
from multilora.runs.find import Run, find
from multilora.runs.records import RunResults
from places import ROOT


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = find(shutil.copytree(ROOT / "tests/old_folders/fixture/run", tmp_path / "run"))
    assert isinstance(found, Run)
    return found


def write(run: Run, *scores: CardScore) -> bool:
    return write_run_card(run.recipe, RunResults.read(run.layout.results), run.weights, scores)


def read(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_says_how_the_run_was_trained(run: Run) -> None:
    assert write(run)
    text, results = read(run.weights), RunResults.read(run.layout.results)
    for words in (
        "| method | `multilora@2x2` |",
        f"| steps | {results.steps} ",
        f"| learning rate | {run.recipe.training.learning_rate:g}, ",
        f"| trained parameters | {results.parameters.trainable:,} of {results.parameters.total:,} |",
        f"Recipe {results.recipe_hash}",
        "(`num_loras`) | 2 |",
        "pip install multilora",
    ):
        assert words in text
    for task, rows in results.tasks.items():
        assert f"| `{task}` | own files | {rows.kept:,} |" in text
    assert "## Scores" not in text
    assert str(run.path.parent) not in text


def test_data_sets_of_the_hub_are_named(run: Run) -> None:
    data = run.recipe.resolved()
    names = list(data["tasks"])
    data["tasks"] = {names[0]: {"task": "gsm8k", "folder": "/somewhere"}, names[1]: {"task": "rte", "hub": "me/my-rte"}}
    write_run_card(Recipe.model_validate(data), RunResults.read(run.layout.results), run.weights)
    assert ModelCard.load(run.weights / "README.md").data.datasets == ["me/my-rte", "openai/gsm8k"]


def test_scores_have_their_intervals(run: Run) -> None:
    write(run, CardScore("a", "test", "accuracy", 0.5, (0.25, 0.75), 1234), CardScore("b", "test", "f1", None, None, 0))
    assert "| a | test | accuracy | 0.500 | 0.250 to 0.750 | 1,234 |" in read(run.weights)
    assert "| b | test | f1 | – | – | 0 |" in read(run.weights)
    assert ModelCard.load(run.weights / "README.md").data.metrics == ["accuracy", "f1"]


def test_an_evaluation_renews_it(run: Run) -> None:
    write(run)
    renew_card(str(run.path), run.layout.evaluation("test"), pytest.fail)
    scores = json.loads((run.layout.evaluation("test") / "results.json").read_text())["tasks"]
    for name, task in scores.items():
        for metric, score in task["metrics"].items():
            low, high = score["interval"]
            row = f"| {name} | test | {metric} | {score['value']:.3f} | {low:.3f} to {high:.3f} | {score['count']} |"
            assert row in read(run.weights)
    assert "## Training" in read(run.weights)
    before = read(run.weights)
    renew_card(str(run.weights), run.layout.evaluation("test"), pytest.fail)  # by its adapter: the same
    assert read(run.weights) == before


def test_an_evaluation_of_the_base_is_none_of_the_adapter(run: Run) -> None:
    write(run)
    before = read(run.weights)
    file = run.layout.evaluation("test") / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"adapter": None}))
    renew_card(str(run.path), file.parent, pytest.fail)
    assert read(run.weights) == before


def test_an_evaluation_writes_no_card_and_touches_nobody_s(run: Run, tmp_path: Path) -> None:
    out = run.layout.evaluation("test")
    renew_card(str(run.path), out, pytest.fail)
    assert not (run.weights / "README.md").exists()
    (run.weights / "README.md").write_text("# Mine\n")
    renew_card(str(run.path), out, pytest.fail)
    assert not write(run)
    assert read(run.weights) == "# Mine\n"
    alone = shutil.copytree(run.weights, tmp_path / "adapter")
    renew_card(str(alone), out, pytest.fail)
    assert read(alone) == "# Mine\n"


def test_a_broken_record_costs_the_card_and_not_the_evaluation(run: Run) -> None:
    write(run)
    before, notes = read(run.weights), list[str]()
    (run.layout.evaluation("test") / "results.json").write_text("{}")
    renew_card(str(run.path), run.layout.evaluation("test"), notes.append)
    assert read(run.weights) == before
    assert len(notes) == 1
    assert notes[0].startswith("the model card is left as it is: ")
