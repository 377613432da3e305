"""A run killed by SIGKILL and resumed ends with the weights of a run that nothing disturbed, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import children
from disk_events import Moment, die_at
from effort import seeded
from tiny_run import make_recipe, read_lines

STEPS = 14
# A moment, a path in the recipe's folder that is there after the kill, and one that is not.
MOMENTS = {
    "claiming the folder": (Moment(".run.new", "rename"), ".run.new/recipe.yaml", "run/recipe.yaml"),
    "saving a checkpoint": (
        Moment("checkpoint-4/trainer_state.json", "write"),
        "run/checkpoints/.incomplete/checkpoint-4/optimizer.pt",
        "run/checkpoints/.incomplete/checkpoint-4/trainer_state.json",
    ),
    "renaming a checkpoint": (
        Moment(".incomplete/checkpoint-4", "rename"),
        "run/checkpoints/.incomplete/checkpoint-4/trainer_state.json",
        "run/checkpoints/checkpoint-4",
    ),
    "rotating checkpoints": (
        Moment("checkpoints/.incomplete", "remove", after="checkpoints/checkpoint-2"),
        "run/checkpoints/.incomplete/checkpoint-2",
        "run/checkpoints/checkpoint-2",
    ),
    "saving the adapter": (
        Moment(".adapter.incomplete", "rename"),
        "run/.adapter.incomplete/adapter_model.safetensors",
        "run/adapter",
    ),
    "writing the results": (
        Moment(".results.json.incomplete", "write"),
        "run/adapter/adapter_model.safetensors",
        "run/results.json",
    ),
}


# In the child ------------------------------------------------------------------------------------------------------


def _train(recipe: Path, resume: bool, moment: Moment | None) -> None:
    from multilora.recipe.file import load_recipe
    from multilora.training.run import train

    torch.set_num_threads(1)
    if moment is not None:
        die_at(moment)
    train(load_recipe(recipe), resume=resume)


# In the parent -----------------------------------------------------------------------------------------------------


def start(recipe: Path, resume: bool = False, moment: Moment | None = None) -> BaseProcess:
    return children.start(_train, recipe, resume, moment)


def finish(recipe: Path, resume: bool = False) -> None:
    process = start(recipe, resume)
    process.join(120)
    assert process.exitcode == 0


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    times = ("seconds", "tokens_per_second")
    lines = [{k: v for k, v in line.items() if k not in times} for line in read_lines(folder / "metrics.jsonl")]
    return load_file(folder / "adapter" / "adapter_model.safetensors"), lines


def assert_as_undisturbed(folder: Path, undisturbed: Path) -> None:
    (weights, lines), (expected_weights, expected_lines) = outcome(folder), outcome(undisturbed)
    assert lines == expected_lines
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected_weights[name]), name
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert names == sorted(str(path.relative_to(undisturbed)) for path in undisturbed.rglob("*"))


def small_recipe(folder: Path, **training: Any) -> Path:
    return make_recipe(folder, steps=STEPS, save_every=2, log_every=1, **training)


def beside(folder: Path, undisturbed: Path) -> Path:
    """`folder` with the model and the data of the undisturbed run."""
    for name in ("model", "a.jsonl", "b.jsonl"):
        (folder / name).symlink_to(undisturbed.parent / name)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(small_recipe(folder))
    return folder / "run"


@pytest.fixture
def recipe(tmp_path: Path, undisturbed: Path) -> Path:
    return small_recipe(beside(tmp_path, undisturbed))


@pytest.mark.parametrize("name", MOMENTS)
def test_killed_at_a_bad_moment(recipe: Path, undisturbed: Path, name: str) -> None:
    moment, there, not_there = MOMENTS[name]
    process = start(recipe, moment=moment)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (recipe.parent / there).exists()
    assert not (recipe.parent / not_there).exists()
    finish(recipe, resume=True)
    assert_as_undisturbed(recipe.parent / "run", undisturbed)


def kill_at(process: BaseProcess | subprocess.Popen[bytes], metrics: Path, step: int, delay: float) -> None:
    """SIGKILL `delay` seconds after the metrics of `step` were written."""
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= step):
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()


def test_killed_at_two_random_moments(recipe: Path, undisturbed: Path) -> None:
    rng = seeded()
    metrics = recipe.parent / "run" / "metrics.jsonl"
    for step in sorted(rng.sample(range(1, STEPS - 2), 2)):
        process = start(recipe, resume=True)
        kill_at(process, metrics, step, rng.uniform(0, 0.05))
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    finish(recipe, resume=True)
    assert_as_undisturbed(recipe.parent / "run", undisturbed)


def test_a_packed_run_killed_at_a_random_moment(tmp_path: Path) -> None:
    rng = seeded()
    packed: dict[str, Any] = {"packing": True, "batch_size": 2, "gradient_accumulation": 2, "log_every": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    finish(make_recipe(whole, steps=STEPS, save_every=3, **packed))
    recipe = make_recipe(beside(killed, whole / "run"), steps=STEPS, save_every=3, **packed)
    process = start(recipe)
    kill_at(process, killed / "run" / "metrics.jsonl", rng.randint(2, 6), rng.uniform(0, 0.05))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    finish(recipe, resume=True)
    assert_as_undisturbed(killed / "run", whole / "run")


@pytest.mark.full
def test_the_command_killed_at_five_random_moments(tmp_path: Path) -> None:
    rng = seeded()
    steps = 60

    def command(recipe: Path) -> list[str]:
        script = "from multilora_cli.main import run; run()"
        return [sys.executable, "-c", script, "train", str(recipe), "--resume"]

    def recipe(name: str) -> Path:
        (tmp_path / name).mkdir()
        return make_recipe(tmp_path / name, steps=steps, save_every=5, log_every=1)

    whole, killed = recipe("whole"), recipe("killed")
    subprocess.run(command(whole), check=True, capture_output=True)
    metrics = tmp_path / "killed" / "run" / "metrics.jsonl"
    for step in sorted(rng.sample(range(1, steps - 3), 5)):
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kill_at(process, metrics, step, rng.uniform(0, 0.1))
        assert process.wait(60) == -signal.SIGKILL
    subprocess.run(command(killed), check=True, capture_output=True)
    assert_as_undisturbed(tmp_path / "killed" / "run", tmp_path / "whole" / "run")
