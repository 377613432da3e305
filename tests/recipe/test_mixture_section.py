"""The mixture section and packing in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from multilora import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe

TEXT = """
model: some/model
method: {name: lora}
tasks:
  t: {train: t.jsonl, prompt: "{q}", completion: "{a}"}
  u: {train: u.jsonl, prompt: "{q}", completion: "{a}"}
training: {output: out, steps: 10}
"""


def load(tmp_path: Path, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load_recipe(path, overrides)


def test_the_defaults_are_explicit_equal_rates_without_packing(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.mixture.rates == "explicit"
    assert recipe.mixture.counted_by == "examples"
    assert not recipe.training.packing


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["mixture.rates=proportionl"], r"mixture\.rates: must be one of explicit.*nearest: 'proportional'"),
        (["mixture.temprature=2"], r"mixture\.temprature: unknown key; nearest: 'temperature'"),
        (["mixture.counted_by=token"], r"mixture\.counted_by: must be one of examples, tokens.*nearest: 'tokens'"),
        (["mixture.rates=temperature"], r"mixture: rates: temperature needs a temperature"),
        (["mixture.temperature=2"], r"mixture: temperature: 2\.0 has no effect with rates: explicit"),
        (["mixture.rates=equal", "mixture.examples_cap=5"], r"mixture: examples_cap: 5 has no effect"),
        (["mixture.rates=temperature", "mixture.temperature=0.5"], r"mixture\.temperature: must be greater"),
        (["mixture.rates=equal", "tasks.u.rate=2"], r"tasks\.u\.rate: 2\.0 has no effect with mixture\.rates: equal"),
        (["tasks.u.rate=-1"], r"tasks\.u\.rate: must be greater than 0; got -1"),
        (["tasks.t.rate=0", "tasks.u.rate=0"], r"2 faults\n.*tasks\.t\.rate: must be greater than 0; got 0\n"),
        (["tasks.u.rat=2"], r"tasks\.u\.rat: unknown key; nearest: 'rate'"),
        (["training.packed_length=2048"], r"training: packed_length: 2048 has no effect without packing"),
        (["training.packing=true", "training.packed_length=512"], r"packed_length must be at least max_length = 1024"),
    ],
)
def test_faults(tmp_path: Path, overrides: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        load(tmp_path, *overrides)


def test_what_the_mixture_says_determines_the_weights(tmp_path: Path) -> None:
    hashes = {
        load(tmp_path, *overrides).recipe_hash()
        for overrides in (
            (),
            ("mixture.rates=equal",),
            ("mixture.counted_by=tokens",),
            ("training.packing=true",),
            ("training.packing=true", "training.packed_length=4096"),
        )
    }
    assert len(hashes) == 5


def test_a_packed_row_is_twice_the_longest_example_unless_said(tmp_path: Path) -> None:
    assert load(tmp_path, "training.packing=true", "training.max_length=512").training.row_length == 1024
    packed = ("training.packing=true", "training.max_length=512", "training.packed_length=512")
    assert load(tmp_path, *packed).training.row_length == 512
