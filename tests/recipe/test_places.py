"""Sections of a recipe by their place: found in the models, not in a list of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from multilora.recipe import FullMethod, LoraMethod, QuantizationSection, Recipe
from multilora.recipe.comparison import ComparedMethod
from multilora.recipe.places import alternatives, named_sections, section_at
from multilora.tasks.data_sets.mmlu import MMLUSection
from multilora.tasks.jsonl import JsonlSection

DATA: dict[str, Any] = {
    "model": {"path": "m", "quantization": {}},
    "method": {"name": "lora"},
    "tasks": {"a": {}, "b": {"task": "mmlu"}, "c": {"task": "none such"}, "d": 3},
    "comparison": {"methods": {"full": {"learning_rate": 1}}},
}


@pytest.mark.parametrize(
    ("place", "section"),
    [
        ((), Recipe),
        (("model", "quantization"), QuantizationSection),
        (("method",), LoraMethod),
        (("tasks",), None),
        (("tasks", "a"), JsonlSection),
        (("tasks", "b"), MMLUSection),
        (("tasks", "c"), None),
        (("tasks", "d"), JsonlSection),
        (("comparison", "methods"), None),
        (("comparison", "methods", "full"), ComparedMethod),
        (("training", "steps"), None),
        (("nowhere", "at all"), None),
    ],
)
def test_the_section_of_a_place(place: tuple[str, ...], section: type[BaseModel] | None) -> None:
    assert section_at(Recipe, place, DATA) is section


def test_every_section_of_a_recipe_is_found_at_its_field() -> None:
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert section_at(Recipe, (name,), {}) is field.annotation


def test_the_method_that_the_data_name() -> None:
    assert section_at(Recipe, ("method",), {"method": {"name": "full"}}) is FullMethod
    assert section_at(Recipe, ("method",), {"method": {"name": 3}}) is None
    assert section_at(Recipe, ("method",), {"method": None}) is None
    assert alternatives(Recipe, ("method",)) == ["multilora", "lora", "full"]


def test_sections_under_names_of_the_users_own() -> None:
    assert list(named_sections(Recipe)) == [("tasks",), ("comparison", "methods")]
