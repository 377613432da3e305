"""Real processes, started by torchrun on the CPU: together they train what one process trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from effort import seeded
from end_to_end.in_processes import Jobs, Runs, assert_close, assert_equal, files_of, multilora, settings
from multilora import InputError
from multilora.recipe.file import load_recipe
from multilora.training.run import train
from tiny_run import make_recipe, read_lines, undo

PLAIN = {"name": "multilora", "r": 4, "num_loras": 2}  # without dropout, whose masks are each process's own
# Name, method, overrides; batch_size is set to 2 for two processes and to 4 for one.
ALIKE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "padded": (PLAIN, []),
    "padded, accumulated": (PLAIN, ["training.gradient_accumulation=3"]),
    "packed": (PLAIN, ["training.packing=true"]),
    "packed, accumulated": (PLAIN, ["training.packing=true", "training.gradient_accumulation=2"]),
    "checkpointing": (PLAIN | {"scaling": "scalar"}, ["training.gradient_checkpointing=true"]),
    "lora": ({"name": "lora", "r": 4}, []),
    "full": ({"name": "full"}, ["training.gradient_checkpointing=true", "training.learning_rate=0.001"]),
    "validated": (PLAIN, ["validation.general_text=[general.txt]", "validation.every=5"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("processes")
    jobs = Jobs(folder)
    recipe, job = jobs.recipe, jobs.add
    for name, (method, given) in ALIKE.items():
        overrides = [text.replace("general.txt", str(folder / "general.txt")) for text in given]
        path = recipe(name, method)
        job(path, name, overrides)
        train(load_recipe(path, settings(folder, name, 1, overrides)))

    dropout = recipe("dropout", PLAIN | {"lora_dropout": 0.2})
    streaming = ["mixture.streaming=true", "mixture.shuffle_buffer=8"]
    for name, overrides in (
        ("resumed", []),
        ("resumed packed", ["training.packing=true"]),
        ("resumed stream", [*streaming, "training.packing=true"]),
        ("stream", streaming),
    ):
        job(dropout, f"{name}, in one go", overrides)
        if name != "stream":
            job(dropout, name, overrides, resume=True, copy_of=str(folder / "two" / f"{name}, in one go"), undo_to=8)

    with (folder / "bad.jsonl").open("w") as file:
        file.writelines('{"q": "one", "a": "two"}\n' for _ in range(2001))
        file.write("not json\n")  # line 2002, of process 1
        file.writelines('{"q": "one", "a": "two"}\n' for _ in range(3000))
    job(
        dropout,
        "late",
        [*streaming, f"tasks.a.train={folder / 'bad.jsonl'}", "training.steps=2000", "training.batch_size=64"],
    )
    job(dropout, "early", [f"tasks.a.train={folder / 'bad.jsonl'}"])
    job(dropout, "taken", [f"training.output={folder / 'two' / 'padded'}"])
    job(dropout, "nan", ["training.learning_rate=1e30", "training.warmup=0", "training.save_every=1"])

    return jobs.run()


# The same as one process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_what_one_trains(runs: Runs, name: str) -> None:
    assert_close(runs.of_two(name), runs.of_one(name))
    results = json.loads((runs.of_two(name) / "results.json").read_text())
    assert results["processes"] == 2
    assert results["tasks"] == json.loads((runs.of_one(name) / "results.json").read_text())["tasks"]


def test_validation_is_that_of_one_process(runs: Runs) -> None:
    two, one = (read_lines(folder("validated") / "validation.jsonl") for folder in (runs.of_two, runs.of_one))
    assert [line["step"] for line in two] == [line["step"] for line in one] == [0, 5, 10, 12]
    for line, expected in zip(two, one, strict=True):
        assert line["general_text"] == pytest.approx(expected["general_text"], abs=1e-5)


def test_the_files_are_those_of_one_process_and_the_states_of_random_numbers(runs: Runs) -> None:
    two, one = files_of(runs.of_two("padded")), files_of(runs.of_one("padded"))
    assert [name for name in two if "rng_state" not in name] == [name for name in one if "rng_state" not in name]
    last = runs.of_two("padded") / "checkpoints" / "checkpoint-12"
    assert sorted(path.name for path in last.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    assert not [path for path in (runs.folder / "two").iterdir() if path.name.startswith(".")]


# Resumed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resumed", "resumed packed", "resumed stream"])
def test_resumed_is_uninterrupted_bit_for_bit(runs: Runs, name: str) -> None:
    assert_equal(runs.of_two(name), runs.of_two(f"{name}, in one go"))


def test_processes_drop_out_different_activations(runs: Runs) -> None:
    states = [
        torch.load(
            runs.of_two("resumed") / "checkpoints" / "checkpoint-12" / f"rng_state_{rank}.pth", weights_only=False
        )["cpu"]
        for rank in (0, 1)
    ]
    assert not torch.equal(*states)


@pytest.mark.parametrize("name", ["padded", "packed"])
def test_one_process_resumes_what_two_began(runs: Runs, name: str, tmp_path: Path) -> None:
    shutil.copytree(runs.of_two(name), tmp_path / "run")
    undo(tmp_path / "run", 8)
    overrides = [*settings(runs.folder, name, 1, ALIKE[name][1]), f"training.output={tmp_path / 'run'}"]
    train(load_recipe(runs.folder / f"{name}.yaml", overrides), resume=True)
    assert_close(tmp_path / "run", runs.of_one(name))


def test_other_processes_do_not_resume_a_stream(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.of_two("stream, in one go"), tmp_path / "run")
    undo(tmp_path / "run", 8)
    overrides = settings(runs.folder, "", 1, ["mixture.streaming=true", "mixture.shuffle_buffer=8"])
    with pytest.raises(InputError, match=r"on 2 processes.*cannot be resumed on 1; start 2 with torchrun"):
        train(
            load_recipe(runs.folder / "dropout.yaml", [*overrides, f"training.output={tmp_path / 'run'}"]), resume=True
        )


# Streams -----------------------------------------------------------------------------------------------------------


def test_the_counts_of_a_stream_are_those_of_all_processes(runs: Runs) -> None:
    tasks = json.loads((runs.of_two("stream, in one go") / "results.json").read_text())["tasks"]
    assert sum(task["drawn"] for task in tasks.values()) == 12 * 4
    for name, rows in (("a", 40), ("b", 30)):
        assert tasks[name]["drawn"] <= tasks[name]["rows"] == tasks[name]["kept"] <= rows  # read ahead, by blocks of 8
        assert tasks[name]["passes"] == 1


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("early", "tasks.a: bad.jsonl line 2002: not JSON"),
        ("late", "tasks.a: bad.jsonl line 2002: not JSON"),  # which process 1 alone has read
        ("taken", "holds a run already"),
        ("nan", "the loss is nan at step "),
    ],
)
def test_every_process_sees_the_same_error(runs: Runs, name: str, message: str) -> None:
    first, second = runs.errors(name)
    assert message in first
    assert first == second


def test_what_was_wrong_left_no_half(runs: Runs) -> None:
    assert not runs.of_two("early").exists()
    for name in ("late", "nan"):
        left = {path.name for path in runs.of_two(name).iterdir()}
        assert left == {"checkpoints", "data.json", "metrics.jsonl", "recipe.yaml"}
        assert all(path.name.startswith("checkpoint-") for path in (runs.of_two(name) / "checkpoints").iterdir())


# The command -------------------------------------------------------------------------------------------------------


def test_the_command_speaks_once_and_fails_once(runs: Runs, tmp_path: Path) -> None:
    text = (runs.folder / "padded.yaml").read_text()
    (tmp_path / "good.yaml").write_text(text.replace(str(runs.folder / "run"), str(tmp_path / "run")))
    (tmp_path / "bad.yaml").write_text(text.replace("learning_rate", "lerning_rate"))
    good, bad = multilora(tmp_path, "good.yaml"), multilora(tmp_path, "bad.yaml")  # at the same time
    said, complaints = good.communicate(timeout=120)
    assert good.returncode == 0, complaints
    assert said.count("for 12 steps") == said.count("step 12/12") == said.count("multilora export") == 1
    said, complaints = bad.communicate(timeout=120)
    assert bad.returncode == 1  # torchrun's own
    assert said == ""
    assert complaints.count("training.lerning_rate: unknown key; nearest: 'learning_rate'") == 1
    assert "exitcode  : 2" in complaints
    assert "InputError" not in complaints


# Killed ------------------------------------------------------------------------------------------------------------


def kill_at(process: subprocess.Popen[str], metrics: Path, step: int, delay: float) -> None:
    """SIGKILL torchrun and all its processes `delay` seconds after the metrics of `step` were written."""
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= step):
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.001)
    time.sleep(delay)
    everyone = [*psutil.Process(process.pid).children(recursive=True), process]
    for each in everyone:
        each.kill()
    for each in everyone:
        each.wait(30)
    process.communicate()


@pytest.mark.full
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--set=training.packing=true", "--set=mixture.streaming=true"],
        ["--set=hardware.sharding=full", "--set=hardware.devices=2"],
    ],
)
def test_killed_at_random_moments_and_resumed_is_undisturbed(tmp_path: Path, options: list[str]) -> None:
    rng, steps = seeded(), 60
    make_recipe(tmp_path, PLAIN | {"lora_dropout": 0.2}, steps=steps, save_every=5, log_every=1, batch_size=2)
    whole = multilora(tmp_path, "recipe.yaml", *options, "--set=training.output=whole")
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors
    for step in sorted(rng.sample(range(1, steps - 5), 3)):
        process = multilora(tmp_path, "recipe.yaml", "--resume", *options)
        kill_at(process, tmp_path / "run" / "metrics.jsonl", step, rng.uniform(0, 0.1))
    last = multilora(tmp_path, "recipe.yaml", "--resume", *options)
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert_equal(tmp_path / "run", tmp_path / "whole")
