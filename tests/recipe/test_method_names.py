from __future__ import annotations

from typing import Any

import pytest

from multilora import InputError
from multilora.recipe import FullMethod, LoraMethod, MultiLoraMethod, Recipe
from multilora.recipe.method_names import named_method


def recipe(**method: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": "m",
            "method": method or {"name": "multilora", "r": 8, "num_loras": 3, "target_modules": ["q_proj"]},
            "tasks": {"t": {"train": "t.jsonl", "prompt": "{q}", "completion": "{a}"}},
            "training": {"output": "runs/x", "steps": 10},
        }
    )


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("full", FullMethod(name="full")),
        ("lora@24", LoraMethod(name="lora", r=24, target_modules=["q_proj"])),
        ("lora@24:use_rslora=true", LoraMethod(name="lora", r=24, use_rslora=True, target_modules=["q_proj"])),
        ("multilora", MultiLoraMethod(name="multilora", r=8, num_loras=3, target_modules=["q_proj"])),
        ("multilora@5x2", MultiLoraMethod(name="multilora", r=2, num_loras=5, target_modules=["q_proj"])),
        (
            "multilora:scaling=none,init_weights=lora",
            MultiLoraMethod(
                name="multilora", r=8, num_loras=3, target_modules=["q_proj"], scaling="none", init_weights="lora"
            ),
        ),
        ("lora@4:target_modules=all-linear", LoraMethod(name="lora", r=4)),
    ],
)
def test_names(name: str, section: Any) -> None:
    assert named_method(name, recipe().method).section == section


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lore@8", r"unknown method 'lore@8'; nearest: 'lora@24'"),
        ("lora", "write lora@RANK"),
        ("lora@", "write lora@RANK"),
        ("lora@0", r"'lora@0': r: "),
        ("lora@x", "write lora@RANK"),
        ("multilora@8", "write multilora@NxR"),
        ("full@3", "unknown method"),
        ("multilora:scalling=scalar", r"scalling: .*nearest: 'scaling'"),
        ("multilora:scaling", "write options as key=value"),
        ("multilora:scaling=[1", "the value of scaling is not YAML"),
        ("lora@24:r=8", "says r twice"),
        ("multilora@3x8:num_loras=2", "says num_loras twice"),
        ("", "unknown method"),
    ],
)
def test_what_is_no_method(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_method(name, recipe().method)


def test_the_recipes_own_method_must_be_one() -> None:
    with pytest.raises(InputError, match="means the recipe's method, which is lora"):
        named_method("multilora", recipe(name="lora", r=8).method)


def test_the_total_rank_is_what_compares() -> None:
    own = recipe().method
    ranks = [named_method(name, own).total_rank for name in ("multilora", "lora@24", "multilora@1x24", "full")]
    assert ranks == [24, 24, 24, None]
