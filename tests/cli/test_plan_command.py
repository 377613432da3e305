"""`multilora plan`: the presets, what does not fit and what to change, output, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.resources.plan import GIB, plan_recipe
from multilora_cli.main import app
from places import ROOT
from tiny_run import make_model, make_recipe

PRESETS = sorted((ROOT / "recipes").glob("llama-*.yaml"))
SEVEN = ROOT / "recipes" / "llama-7b.yaml"


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of data, and no variable that names one."""
    monkeypatch.delenv("MULTILORA_DATA", raising=False)


def cli(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


# Presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("no_data")
def test_the_presets_fit_without_model_and_data(path: Path) -> None:
    plan = plan_recipe(path)
    assert plan.shape_from == "model.shape"
    assert plan.fits is True
    assert plan.memory.activations_known
    assert plan.changes == ()
    billions = int(path.stem.removeprefix("llama-").removesuffix("b"))
    assert plan.parameters.base_total / 1e9 == pytest.approx(billions, rel=0.09)  # "30B" has 32.5


@pytest.mark.usefixtures("no_data")
def test_the_presets_are_one_recipe_at_four_scales() -> None:
    recipes = [load_recipe(path, keep_unset=True) for path in PRESETS]
    assert len(recipes) == 4
    for recipe in recipes:
        assert (recipe.method, recipe.tasks, recipe.mixture) == (
            recipes[0].method,
            recipes[0].tasks,
            recipes[0].mixture,
        )
        training, devices = recipe.training, recipe.hardware.devices
        assert training.batch_size * training.gradient_accumulation * devices == 8
        assert training.row_length <= recipe.model.shape["max_position_embeddings"]  # type: ignore[index]


@pytest.mark.usefixtures("no_data")
def test_a_run_still_needs_the_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MULTILORA_DATA is not set"):
        load_recipe(SEVEN)
    kept = load_recipe(SEVEN, keep_unset=True).tasks["rte"].model_dump()
    assert str(kept["folder"]).startswith("${MULTILORA_DATA}/")


# Fit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("hardware.memory_gib=24", "training.gradient_checkpointing=false"),
        ("hardware.memory_gib=20",),
        ("hardware.memory_gib=16", "training.batch_size=1"),
        ("hardware.memory_gib=30", "hardware.devices=4", "training.gradient_checkpointing=false"),
        ("hardware.memory_gib=40", "method={name: full}", "training.scaling_lr_ratio=1"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_data")
def test_every_change_that_is_named_makes_it_fit(overrides: tuple[str, ...]) -> None:
    plan = plan_recipe(SEVEN, overrides)
    assert plan.fits is False
    assert plan.spare is not None
    assert plan.spare < 0
    assert plan.changes
    for change in plan.changes:
        changed = plan_recipe(SEVEN, (*overrides, *change.settings))
        assert changed.fits is True
        assert changed.memory.total == change.total
        assert change.trainable
        before, after = (
            p.recipe.training.batch_size * p.recipe.training.gradient_accumulation for p in (plan, changed)
        )
        assert before == after


@pytest.mark.usefixtures("no_data")
def test_a_machine_that_is_too_small_for_anything_gets_no_advice() -> None:
    plan = plan_recipe(SEVEN, ["hardware.memory_gib=1"])
    assert plan.fits is False
    assert plan.changes == ()
    assert "shorten the rows" in cli(str(SEVEN), "--set", "hardware.memory_gib=1").output


@pytest.mark.usefixtures("no_data")
def test_without_memory_gib_nothing_is_said_of_fitting() -> None:
    plan = plan_recipe(SEVEN, ["hardware.memory_gib=null"])
    assert plan.fits is None
    assert plan.spare is None
    assert "fit" not in cli(str(SEVEN), "--set", "hardware.memory_gib=null").output


def test_of_another_kind_of_block_it_is_not_known_whether_it_fits(tmp_path: Path) -> None:
    recipe = yaml.safe_load(make_recipe(tmp_path, {"name": "lora", "target_modules": ["c_attn"]}).read_text())
    recipe["model"] = {"path": "nobody/gpt2", "shape": {"model_type": "gpt2"}}
    recipe["hardware"] = {"memory_gib": 80}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert plan_recipe(path).fits is None
    output = cli(str(path)).output
    assert "at least" in output
    assert "not known whether it fits" in output
    assert plan_recipe(path, ["hardware.memory_gib=1"]).fits is False  # with what is known already


# Output ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_data")
def test_json_is_plain_and_adds_up() -> None:
    result = cli(str(SEVEN), "--json", "--set", "hardware.memory_gib=8")
    assert result.exit_code == 0
    facts = json.loads(result.output)
    parameters, memory = facts["parameters"], facts["memory_per_device"]
    assert parameters["base"] == sum(parameters["base_by_kind"].values())
    assert parameters["trainable"] == sum(parameters["trainable_by_kind"].values())
    assert parameters["trainable_over_base"] == parameters["trainable"] / parameters["base"]
    assert parameters["file_bytes"] == 4 * parameters["trainable"]
    peak = max(sum(parts.values()) for parts in memory["moments"].values())
    assert sum(memory["moments"][memory["peak"]].values()) == peak
    assert memory["total"] == peak + memory["overhead_assumed"]
    assert facts["fits"] is False
    assert facts["spare_bytes"] == 8 * GIB - memory["total"]


@pytest.mark.usefixtures("no_data")
def test_the_table_shows_counts_parts_and_the_total() -> None:
    plan, result = plan_recipe(SEVEN), cli(str(SEVEN))
    assert result.exit_code == 0
    for kind, count in plan.parameters.trained.items():
        assert any(kind in line and f"{count:,}" in line for line in result.output.splitlines()), kind
    for part, count in plan.memory.peak.parts.items():
        words = part.replace("_", " ")
        assert any(words in line and f"{count / GIB:,.2f}" in line for line in result.output.splitlines()), part
    assert f"{plan.memory.total / GIB:,.2f}" in result.output
    assert "fits on 1 x 80 GiB" in result.output


@pytest.mark.usefixtures("no_data")
def test_what_is_assumed_is_said() -> None:
    for device, word in (("gpu", "overhead is assumed"), ("cpu", "tensors alone are counted")):
        output = cli(str(SEVEN), "--set", f"hardware.device={device}").output
        assert word in output
        assert ("overhead (assumed)" in output) == (device == "gpu")


def test_a_plan_is_of_the_model_that_is_at_hand(tmp_path: Path) -> None:
    make_model(tmp_path / "other", num_hidden_layers=3)
    path = make_recipe(tmp_path)
    two, three = (
        plan_recipe(path, [f"model.path={tmp_path / name}"]).parameters.trainable for name in ("model", "other")
    )
    assert two * 3 == three * 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hardware.devcies=2", "hardware.devcies: unknown key; nearest: 'devices'"),
        ("hardware.devices=0", "hardware.devices: must be greater than or equal to 1"),
        ("hardware.sharding=full", "sharding: full has no effect with one device"),
        ("model.shape={hidden_size: 3}", "shape needs the model_type"),
        ("method.target_modules=[nothing]", "match no layer to adapt"),
        ("model.path=/no/such/model", "give its model.shape"),
    ],
)
def test_bad_input_is_said(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan_recipe(make_recipe(tmp_path), [override])
    assert words in str(caught.value)


def test_bad_input_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "multilora_cli.main", "plan", str(make_recipe(tmp_path))]
    result = subprocess.run([*command, "--set", "hardware.devices=none"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "hardware.devices: must be a valid integer" in result.stderr
    assert "Traceback" not in result.stderr


# The recipe --------------------------------------------------------------------------------------------------------


def test_planning_does_not_change_what_a_run_is(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    plain = load_recipe(path)
    settings = ["hardware.devices=8", "hardware.sharding=full", "hardware.memory_gib=80", "hardware.device=cpu"]
    shape = 'model.shape={"model_type": "llama", "hidden_size": 32}'
    planned = load_recipe(path, [*settings, shape])
    assert planned.recipe_hash() == plain.recipe_hash()
    assert planned.resolved() != plain.resolved()
    assert Recipe.model_validate(planned.resolved()).resolved() == planned.resolved()
