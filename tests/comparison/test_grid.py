from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.comparison.grid import Grid, best_trial, single_steps
from multilora.recipe import Recipe
from multilora.recipe.comparison import ComparisonSection


def recipe(**training: Any) -> Recipe:
    task = {"prompt": "{q}", "completion": "{a}"}
    return Recipe.model_validate(
        {
            "model": "m",
            "method": {"name": "multilora", "r": 8, "num_loras": 3},
            "tasks": {"a": {"train": "a.jsonl", **task}, "b": {"train": "b.jsonl", **task}},
            "training": {"output": "runs/x", "steps": 100, "scaling_lr_ratio": 4, "seed": 7, **training},
            "validation": {"every": 10, "best_by": "loss"},
        }
    )


def grid(**section: Any) -> Grid:
    methods = section.pop("methods", {"full": {}, "lora@24": {}, "multilora": {}})
    return Grid(recipe(), ComparisonSection.model_validate({"methods": methods, **section}), Path("out"))


def test_every_method_seed_and_regime_is_one_cell_in_a_folder_of_its_own() -> None:
    cells = grid(seeds=3, regimes=["mixed", "single"]).finals({}, {"a": 60, "b": 40})
    assert len(cells) == 3 * 3 * (1 + 2)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert all(cell.folder.is_relative_to("out/cells") for cell in cells)
    assert {cell.recipe.training.seed for cell in cells} == {7, 8, 9}
    # Seed after seed, so that an interrupted comparison is balanced.
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_cells_differ_from_the_recipe_in_method_seed_rate_and_folder_alone() -> None:
    own = recipe().resolved()
    for cell in grid(methods={"lora@24": {"learning_rate": 0.1}, "multilora": {"scaling_lr_ratio": 2}}).finals({}, {}):
        data = cell.recipe.resolved()
        assert {key for key in own if own[key] != data[key]} <= {"method", "training"}
        changed = {key for key in own["training"] if own["training"][key] != data["training"][key]}
        assert changed <= {"output", "learning_rate", "seed", "scaling_lr_ratio"}


def test_a_method_without_a_scale_has_no_ratio_and_fixed_rates_win() -> None:
    cells = {
        cell.method.name: cell.recipe.training
        for cell in grid(methods={"lora@24": {"learning_rate": 0.1}, "multilora": {}}, learning_rates=[1, 2]).finals(
            {"multilora": 2.0}, {}
        )
    }
    assert (cells["lora@24"].learning_rate, cells["lora@24"].scaling_lr_ratio) == (0.1, 1.0)
    assert (cells["multilora"].learning_rate, cells["multilora"].scaling_lr_ratio) == (2.0, 4.0)


def test_every_swept_method_has_as_many_trials_and_none_is_tested() -> None:
    swept = grid(methods={"full": {"learning_rate": 1}, "lora@24": {}, "multilora": {}}, learning_rates=[0.1, 0.2])
    trials = swept.trials()
    assert [cell.method.name for cell in trials] == ["lora@24"] * 2 + ["multilora"] * 2
    assert all(cell.trial and cell.seed == 0 for cell in trials)
    assert all(cell.recipe.validation and cell.recipe.validation.best_by is None for cell in trials)
    assert not grid().trials()


def test_a_method_may_try_its_own_learning_rates_but_not_more_of_them_than_others() -> None:
    own = {"full": {"learning_rates": [0.01, 0.02]}, "lora@24": {}}
    tried = [(c.method.name, c.learning_rate) for c in grid(methods=own, learning_rates=[0.1, 0.2]).trials()]
    assert tried == [("full", 0.01), ("full", 0.02), ("lora@24", 0.1), ("lora@24", 0.2)]
    with pytest.raises(InputError, match="full: 2, lora@24: 1; make them equal"):
        grid(methods=own, learning_rates=[0.1])


def test_the_best_trial_is_the_highest_score_or_the_lowest_loss() -> None:
    cells = grid(methods={"lora@24": {}}, learning_rates=[0.1, 0.2, 0.3]).trials()

    def best(values: list[float | None], by: str) -> float | None:
        found = best_trial(cells, values, by)
        return found and found.learning_rate

    assert best([0.5, 0.7, 0.6], "score") == 0.2
    assert best([0.5, 0.7, 0.6], "loss") == 0.1
    assert best([0.5, 0.5, float("nan")], "score") == 0.1
    assert best([None, float("nan"), 3.0], "loss") == 0.3
    assert best([None, float("nan"), None], "loss") is None


def test_alone_a_task_has_the_examples_that_it_has_in_the_mixture() -> None:
    assert single_steps(100, [3.0, 1.0], [50, 10], packed=False) == [75, 25]
    assert single_steps(100, [1.0, 1.0], [30, 10], packed=True) == [75, 25]  # a packed step is as many tokens
    (a, b) = (
        cell.recipe for cell in grid(methods={"multilora": {}}, regimes=["single"]).finals({}, {"a": 75, "b": 25})
    )
    assert (list(a.tasks), a.training.steps) == (["a"], 75)
    assert (list(b.tasks), b.training.steps) == (["b"], 25)


def test_the_lora_of_equal_rank_is_found() -> None:
    found = grid(methods={"lora@8": {}, "lora@24": {}, "multilora": {}, "multilora@2x4": {}, "full": {}})
    names = {m.name: (o.name if (o := found.equal_rank_lora(m)) else None) for m in found.methods}
    assert names == {
        "lora@8": "lora@8",
        "lora@24": "lora@24",
        "multilora": "lora@24",
        "multilora@2x4": "lora@8",
        "full": None,
    }


def test_the_hash_tells_recipes_apart_and_not_how_many_cells_there_are() -> None:
    def hashed(seeds: int = 1, limit: int | None = None, **training: Any) -> str:
        section = ComparisonSection.model_validate({"methods": {"full": {}}, "seeds": seeds, "limit": limit})
        return Grid(recipe(**training), section, Path("out")).hash()

    assert hashed() == hashed(seeds=5) == hashed(learning_rate=0.5) == hashed(output="runs/y")
    assert len({hashed(), hashed(limit=10), hashed(steps=50), hashed(batch_size=2)}) == 4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"methods": {}}, "none given; name some"),
        ({"methods": {"lora@8": {}, "lora-8": {}}}, "unknown method 'lora-8'"),
        ({"methods": {"multilora@3x8:scaling=scalar": {}, "multilora@3x8:scaling:scalar": {}}}, "key=value"),
    ],
)
def test_what_cannot_be_compared(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(**section)


def test_a_sweep_needs_validation_rows() -> None:
    section = ComparisonSection.model_validate({"methods": {"full": {}}, "learning_rates": [0.1]})
    with pytest.raises(InputError, match="has no validation section"):
        Grid(recipe().model_copy(update={"validation": None}), section, Path("out"))
