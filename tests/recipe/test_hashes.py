"""The hash of a recipe is what it was before tasks owned their options: recorded at commit c28c67d.

Runs are resumed, and comparisons are continued, by this hash.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from multilora.recipe.file import load_recipe
from places import ROOT

LINES = {"train": "t.jsonl", "prompt": "{q}", "completion": " {a}"}
# By a name: the tasks of a recipe, and its hash.
TASKS: dict[str, tuple[dict[str, Any], str]] = {
    "alpaca": ({"t": {"task": "alpaca", "folder": "there"}}, "cdc6186348443360"),
    "boolq": ({"t": {"task": "boolq", "folder": "there"}}, "48c18fc6a98f936c"),
    "cb": ({"t": {"task": "cb", "folder": "there"}}, "c60a453ebaace15f"),
    "copa": ({"t": {"task": "copa", "folder": "there"}}, "2d9fd8b2fba376d7"),
    "gsm8k": ({"t": {"task": "gsm8k", "folder": "there"}}, "8107953de1f7ebe9"),
    "mmlu": ({"t": {"task": "mmlu", "folder": "there"}}, "8f992b7941b42457"),
    "multirc": ({"t": {"task": "multirc", "folder": "there"}}, "3f0808ce59e7ea1e"),
    "record": ({"t": {"task": "record", "folder": "there"}}, "f7e0c29a81de0b4d"),
    "rte": ({"t": {"task": "rte", "folder": "there"}}, "c1679d71aa39afd0"),
    "wic": ({"t": {"task": "wic", "folder": "there"}}, "cb5ca23eaba35e57"),
    "wsc": ({"t": {"task": "wsc", "folder": "there"}}, "e733e17f71d8410b"),
    "hub": (
        {"t": {"task": "rte", "hub": "me/mine", "revision": "v1", "validation_share": 0.1, "rate": 2}},
        "871f6efaf1114bc4",
    ),
    "mmlu options": ({"t": {"task": "mmlu", "folder": "f", "auxiliary": "x", "shots": 3}}, "c8f36148ba9551ca"),
    "jsonl": (
        {
            "t": LINES,
            "u": {
                "task": "jsonl",
                **LINES,
                "hub": "a/b",
                "config": "c",
                "revision": "d",
                "id": "i",
                "on_bad_row": "skip",
            },
        },
        "43b652834fa53307",
    ),
    "choices": (
        {
            "t": {
                "train": ["a", "b"],
                "prompt": ["{q}", "{r}"],
                "choices": "{c}",
                "answer": "n",
                "labels": "l",
                "validation": "v",
                "test": ["x"],
            }
        },
        "81b5f7b1bd777b2b",
    ),
    "score": ({"t": {**LINES, "score": "final_number", "validation_share": 0.2}}, "cb8d7382a36b6a6e"),
    "chat": (
        {"t": {"task": "chat", "train": "a.jsonl", "chat_template": "{{ x }}", "validation_share": 0.2}},
        "827e0187952fcefc",
    ),
    "all": (
        {
            "alpaca": {"task": "alpaca"},
            "gsm8k": {"task": "gsm8k"},
            "mmlu": {"task": "mmlu"},
            "wsc": {"task": "wsc"},
            "c": {"task": "chat", "train": "c"},
            "j": LINES,
        },
        "22d667b75b63db4c",
    ),
}
# By the name of a recipe of the project.
RECIPES = {
    "controls/full.yaml": "7fdc71ebbd7b1c75",
    "controls/lora-rank-nr.yaml": "87b51eff5b0b20f3",
    "controls/lora-rank-r.yaml": "16d5bc769f02ad91",
    "controls/no-scale.yaml": "707735d0d73447a1",
    "controls/one-module.yaml": "da18cb736b14dd41",
    "four-categories-study.yaml": "fad3527ce8e7b45d",
    "four-categories.yaml": "9abc93e08f96c0df",
    "gsm8k-alpaca.yaml": "5f8d18aaa192ed18",
    "llama-13b.yaml": "89c87a4112c04aaf",
    "llama-30b.yaml": "0c00b296df0406a9",
    "llama-65b.yaml": "42603da6cca3ec7b",
    "llama-7b.yaml": "8e250abfdd936729",
    "miniature-scaling-study.yaml": "0ea0c468aa4cacf9",
    "miniature-study.yaml": "0ea0c468aa4cacf9",
    "miniature.yaml": "0ea0c468aa4cacf9",
    "paper-mixture.yaml": "26e29f1fa43057e4",
    "single-gsm8k.yaml": "22bb929ca369c721",
}


@pytest.mark.parametrize("name", TASKS)
def test_the_hash_of_sections_of_tasks(name: str, tmp_path: Path) -> None:
    tasks, expected = TASKS[name]
    data = {"model": "m", "method": {"name": "multilora"}, "training": {"output": "out", "steps": 1}, "tasks": tasks}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    recipe = load_recipe(path)
    assert recipe.recipe_hash() == expected
    path.write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(path).recipe_hash() == expected


@pytest.mark.parametrize("name", RECIPES)
def test_the_hash_of_a_recipe_of_the_project(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (ROOT / "recipes").rglob("*.yaml"):
        for variable in set(re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))):
            monkeypatch.setenv(variable, "/somewhere")
    assert load_recipe(ROOT / "recipes" / name).recipe_hash() == RECIPES[name]
