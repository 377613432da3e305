"""Dividing a model: what is refused. What it does is shown by real processes, in tests/end_to_end/test_sharded.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.training.processes import Processes, is_sharded
from multilora.training.run import train
from multilora.training.sharding import shard
from tiny_run import make_recipe

FULL = ["hardware.sharding=full", "hardware.devices=2"]


def is_wanted(recipe: Recipe, processes: Processes) -> bool:
    return is_sharded(recipe.hardware, recipe.model.quantization is not None, processes)


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (FULL, 1, "hardware.devices: 2, one process each, and there is one process; start torchrun --nproc_per_node 2"),
        (FULL, 3, r"there are 3 processes; .*--set hardware.devices=3 \(`multilora plan`"),
        ([*FULL, "model.quantization.bits=4"], 2, "model.quantization and hardware.sharding: full exclude each other"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path: Path, overrides: list[str], processes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        is_wanted(load_recipe(make_recipe(tmp_path), overrides), Processes(0, processes))


def test_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    assert is_wanted(load_recipe(path, FULL), Processes(1, 2))
    assert not is_wanted(load_recipe(path, ["hardware.devices=2"]), Processes(1, 2))
    assert not is_wanted(load_recipe(path), Processes())


def test_one_process_is_told_before_anything_is_read(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"--set hardware\.sharding=none"):
        train(load_recipe(path, FULL))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_the_engines_of_accelerate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(InputError, match=f"does not run on accelerate's {engine}.*torchrun.*hardware.sharding: full"):
        train(load_recipe(make_recipe(tmp_path)))
    assert not (tmp_path / "run").exists()


def test_a_model_that_names_no_blocks_is_refused(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    model._no_split_modules = set()
    with pytest.raises(InputError, match="LlamaForCausalLM does not name its blocks"):
        shard(model, Processes(), compute_in_bf16=False)
    assert not any(parameter.is_meta for parameter in model.parameters())
