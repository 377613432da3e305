"""A recipe on top of another, and the controls: the same data in the same order under another method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from multilora import InputError
from multilora.recipe import LoraMethod, Recipe
from multilora.recipe.file import load_recipe
from places import ROOT

BASE: dict[str, Any] = {
    "model": "some/model",
    "method": {"name": "multilora", "r": 4, "num_loras": 2},
    "tasks": {
        "one": {"train": "one.jsonl", "prompt": "{q}", "completion": "{a}", "rate": 2},
        "two": {"train": "two.jsonl", "prompt": "{q}", "completion": "{a}"},
    },
    "training": {"output": "runs/base", "steps": 10, "max_grad_norm": 0.5},
}


def write(folder: Path, name: str, data: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def extended(tmp_path: Path, *overrides: str, **data: Any) -> Recipe:
    write(tmp_path, "base.yaml", BASE)
    return load_recipe(write(tmp_path, "controls/child.yaml", {"extends": "../base.yaml", **data}), overrides)


def test_a_recipe_that_says_nothing_is_the_one_it_extends(tmp_path: Path) -> None:
    child = extended(tmp_path)
    assert child == load_recipe(tmp_path / "base.yaml")


def test_what_the_recipe_says_wins_and_the_rest_stays(tmp_path: Path) -> None:
    child = extended(tmp_path, training={"output": "runs/child", "max_grad_norm": None}, tasks={"one": {"rate": 5}})
    assert (child.training.output, child.training.steps) == (Path("runs/child"), 10)
    assert child.training.max_grad_norm is None
    assert [task.rate for task in child.tasks.values()] == [5, 1]


def test_the_method_is_taken_as_a_whole(tmp_path: Path) -> None:
    assert extended(tmp_path, method={"name": "lora", "r": 8}).method == LoraMethod(name="lora", r=8)


def test_a_compared_method_that_is_null_is_left_out(tmp_path: Path) -> None:
    both = {**BASE, "comparison": {"methods": {"full": {}, "multilora": {"learning_rate": 1e-3}}}}
    write(tmp_path, "both.yaml", both)
    child = {"extends": "both.yaml", "comparison": {"methods": {"full": None, "multilora": {"scaling_lr_ratio": 10}}}}
    methods = load_recipe(write(tmp_path, "child.yaml", child)).comparison.methods
    assert list(methods) == ["multilora"]
    assert (methods["multilora"].learning_rate, methods["multilora"].scaling_lr_ratio) == (1e-3, 10)


def test_a_task_that_is_null_is_left_out(tmp_path: Path) -> None:
    assert list(extended(tmp_path, tasks={"one": None}).tasks) == ["two"]
    assert list(extended(tmp_path, "tasks.two=null").tasks) == ["one"]
    with pytest.raises(InputError, match="tasks"):
        extended(tmp_path, "tasks.two=null", "tasks.one=null")


def test_overrides_come_last(tmp_path: Path) -> None:
    assert extended(tmp_path, "training.steps=3", training={"steps": 5}).training.steps == 3


def test_recipes_may_extend_recipes_that_extend(tmp_path: Path) -> None:
    extended(tmp_path, training={"steps": 5})
    grandchild = write(
        tmp_path, "grandchild.yaml", {"extends": "controls/child.yaml", "training": {"output": "runs/x"}}
    )
    assert load_recipe(grandchild).training.steps == 5


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("nowhere.yaml", r"cannot read the recipe .*nowhere\.yaml"),
        ("child.yaml", "break the circle"),
        (3, r"extends: must be the path of another recipe; got 3"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, extends: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path, "child.yaml", {"extends": extends}))


def test_the_resolved_recipe_stands_alone(tmp_path: Path) -> None:
    child = extended(tmp_path, method={"name": "full"})
    assert load_recipe(write(tmp_path / "run", "recipe.yaml", child.resolved())) == child


def test_the_controls_see_the_same_rows_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # The order is a pure function of the rows, the rates and the seed; how many rows a step takes is the batch's size.
    monkeypatch.setenv("MULTILORA_DATA", "anywhere")
    mixed = load_recipe(ROOT / "recipes" / "four-categories.yaml")
    controls = sorted((ROOT / "recipes" / "controls").glob("*.yaml"))
    assert len(controls) == 5
    deciding = {"steps", "epochs", "batch_size", "gradient_accumulation", "max_length", "packing", "seed"}
    methods = [mixed.method]
    for path in controls:
        control = load_recipe(path)
        assert (control.model, control.tasks, control.mixture) == (mixed.model, mixed.tasks, mixed.mixture)
        assert control.training.model_dump(include=deciding) == mixed.training.model_dump(include=deciding)
        assert control.training.output != mixed.training.output
        methods.append(control.method)
    assert len({method.model_dump_json() for method in methods}) == 6
