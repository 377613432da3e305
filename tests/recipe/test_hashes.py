"""The hash of a recipe is what it was before tasks owned their options: recorded at commit c28c67d.

Runs are resumed, and comparisons are continued, by this hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from multilora.recipe.file import load_recipe

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


@pytest.mark.parametrize("name", TASKS)
def test_the_hash_of_sections_of_tasks(name: str, tmp_path: Path) -> None:
    tasks, expected = TASKS[name]
    method = {"name": "multilora", "scaling_function": "linear", "scaling_constant": 1}  # the scale of that time
    data = {"model": "m", "method": method, "training": {"output": "out", "steps": 1}, "tasks": tasks}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    recipe = load_recipe(path)
    assert recipe.recipe_hash() == expected
    path.write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(path).recipe_hash() == expected
