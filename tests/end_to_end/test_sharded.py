"""A model divided among two processes, started by torchrun on the CPU: they train what one process trains."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from end_to_end.in_processes import Jobs, Runs, assert_close, assert_equal, files_of, outcome, settings
from multilora.recipe.file import load_recipe
from multilora.training.run import train
from tiny_run import make_model, read_lines, undo

SHARDED = ["hardware.sharding=full", "hardware.devices=2"]
PLAIN = {
    "name": "multilora",
    "r": 4,
    "num_loras": 3,
}  # three rows of scales: two for the one, one for the other process
# Name, method, overrides; batch_size is set to 2 for two processes and to 4 for one.
ALIKE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "padded": (PLAIN, []),
    "packed, accumulated, checkpointing": (
        PLAIN | {"scaling": "scalar", "num_loras": 1, "r": 8},  # one number, which one process has
        ["training.packing=true", "training.gradient_accumulation=2", "training.gradient_checkpointing=true"],
    ),
    "lora": ({"name": "lora", "r": 4}, ["training.max_grad_norm=null"]),
    "full": (
        {"name": "full"},
        ["training.gradient_checkpointing=true", "training.learning_rate=0.001", "training.max_grad_norm=0.5"],
    ),
    "full, tied": ({"name": "full"}, ["model.path=tied", "training.learning_rate=0.001"]),
    "output layer": (PLAIN | {"modules_to_save": ["lm_head"]}, []),
    "validated": (
        PLAIN,
        ["validation.general_text=[general.txt]", "validation.every=5", "validation.best_by=loss"]
        + [f"tasks.{task}.validation_share=0.3" for task in "ab"]  # batches of 2 in odd number
        + (["validation.scores=true", "tasks.a.score=exact_match"] if find_spec("lm_eval") else []),  # which generates
    ),
}
SHARDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "shards": (PLAIN, []),
    "shards, checkpointing": (PLAIN, ["training.gradient_checkpointing=true"]),
    "shards in bf16": (PLAIN, ["training.precision=bf16"]),
    "shards of full": ({"name": "full"}, []),
    "shards by accelerate": (PLAIN, ["training.precision=bf16"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("sharded")
    make_model(folder / "tied", tie_word_embeddings=True)
    jobs = Jobs(folder)
    recipe, job = jobs.recipe, jobs.add
    for name, (method, given) in ALIKE.items():
        overrides = [
            text.replace("general.txt", str(folder / "general.txt")).replace("=tied", f"={folder / 'tied'}")
            for text in given
        ]
        path = recipe(name, method)
        job(path, name, [*overrides, *SHARDED])
        train(load_recipe(path, settings(folder, name, 1, overrides)))
    for name, (method, overrides) in SHARDS.items():
        shards = "accelerate" if "accelerate" in name else "ours"
        job(recipe(name, method), name, [*overrides, *SHARDED], shards=shards)
    for name in ("padded", "full"):
        overrides = [*ALIKE[name][1], *SHARDED]
        copy_of = str(folder / "one" / name)
        job(folder / f"{name}.yaml", f"{name}, from one", overrides, resume=True, copy_of=copy_of, undo_to=8)
    dropout = recipe("dropout", PLAIN | {"lora_dropout": 0.2})
    job(dropout, "dropout", SHARDED)
    job(dropout, "dropout, data parallel", [])
    copy_of = str(folder / "two" / "dropout")
    job(dropout, "dropout, resumed", SHARDED, resume=True, copy_of=copy_of, undo_to=8)
    streamed = ["training.precision=bf16", "mixture.streaming=true", "mixture.shuffle_buffer=8"]
    job(dropout, "streamed in bf16", [*streamed, *SHARDED])
    job(dropout, "streamed in bf16, data parallel", streamed)
    job(dropout, "for four", ["hardware.sharding=full", "hardware.devices=4"])
    return jobs.run()


# The same as one process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_with_a_divided_model_train_what_one_trains(runs: Runs, name: str) -> None:
    assert_close(runs.of_two(name), runs.of_one(name))
    (_, lines), (_, expected) = outcome(runs.of_two(name)), outcome(runs.of_one(name))
    assert lines[2]["loss"] == pytest.approx(expected[2]["loss"], rel=1e-5)
    two, one = (json.loads((run / "results.json").read_text()) for run in (runs.of_two(name), runs.of_one(name)))
    assert two["processes"] == 2
    assert two["parameters"] == one["parameters"]


@pytest.mark.parametrize("name", ALIKE)
def test_the_files_are_those_of_one_process(runs: Runs, name: str) -> None:
    two, one = files_of(runs.of_two(name)), files_of(runs.of_one(name))
    assert [file for file in two if "rng_state" not in file] == [file for file in one if "rng_state" not in file]
    for file in (file for file in two if file.endswith(".safetensors")):
        tensors, expected = (load_file(run / file) for run in (runs.of_two(name), runs.of_one(name)))
        assert {key: (t.shape, t.dtype) for key, t in tensors.items()} == {
            key: (t.shape, t.dtype) for key, t in expected.items()
        }
    for file in (file for file in two if file.endswith("model/config.json")):
        assert (runs.of_two(name) / file).read_text() == (runs.of_one(name) / file).read_text()


def test_the_optimizer_s_state_is_that_of_one_process(runs: Runs) -> None:
    for name in ("padded", "full, tied"):
        two, one = (
            torch.load(run / "checkpoints" / "checkpoint-12" / "optimizer.pt", weights_only=True)
            for run in (runs.of_two(name), runs.of_one(name))
        )
        assert two["state"].keys() == one["state"].keys()
        assert [g["params"] for g in two["param_groups"]] == [g["params"] for g in one["param_groups"]]
        for number, values in two["state"].items():
            for key, value in values.items():
                assert torch.allclose(value, one["state"][number][key], rtol=0, atol=1e-5), (number, key)


def test_validation_is_that_of_one_process(runs: Runs) -> None:
    two, one = (read_lines(folder("validated") / "validation.jsonl") for folder in (runs.of_two, runs.of_one))
    assert [line["step"] for line in two] == [line["step"] for line in one] == [0, 5, 10, 12]
    for line, expected in zip(two, one, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert line["general_text"] == pytest.approx(expected["general_text"], rel=1e-5)
        tokens = {name: task["tokens"] for name, task in line["tasks"].items()}
        assert tokens == {name: task["tokens"] for name, task in expected["tasks"].items()}
    assert (runs.of_two("validated") / "best" / "best.json").is_file()


def test_what_was_saved_loads_as_it_is(runs: Runs) -> None:
    base = AutoModelForCausalLM.from_pretrained(runs.folder / "model")
    loaded = PeftModel.from_pretrained(base, str(runs.of_two("padded") / "adapter"))
    saved, _ = outcome(runs.of_two("padded"))
    named = {name.replace(".default", ""): tensor for name, tensor in loaded.named_parameters()}
    assert saved.keys() <= named.keys()
    assert all(torch.equal(tensor, named[name]) for name, tensor in saved.items())


@pytest.mark.parametrize("name", ["dropout", "streamed in bf16"])
def test_dropout_s_masks_are_those_of_data_parallelism(runs: Runs, name: str) -> None:
    tolerance = 1e-3 if "bf16" in name else 1e-5
    (_, lines), (_, expected) = outcome(runs.of_two(name)), outcome(runs.of_two(f"{name}, data parallel"))
    for line, expected_line in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(expected_line["loss"], rel=tolerance)


# Divided -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARDS)
def test_each_process_holds_its_share_and_computes_with_the_whole(runs: Runs, name: str) -> None:
    first, second = (json.loads(path.read_text()) for path in sorted(runs.folder.glob(f"{name}.*.json")))
    if "accelerate" not in name:
        assert (first["on_meta"], second["on_meta"]) == (False, True)  # the main process alone has read weights
    for parameter, (size, rows) in first["whole"].items():
        shares = [seen["bytes"][parameter] for seen in (first, second)]
        assert shares[0] == shares[1], parameter
        assert sum(shares) == size + rows % 2 * size // rows, parameter  # an odd number of rows is filled up
    for seen in (first, second):
        assert seen["losses"][0] == seen["losses"][1]
        assert seen["gradients"] is True  # bit for bit, as the next two
        assert seen["gathered"] is True
        assert seen["loaded"] is True
        assert not any(seen["plain_outside"])
        assert all(seen["plain_inside"])  # so the fused function has read a weight that is all there
        assert bool(seen["plain_inside"]) == (name != "shards of full")


# Resumed -----------------------------------------------------------------------------------------------------------


def test_resumed_is_uninterrupted_bit_for_bit(runs: Runs) -> None:
    assert_equal(runs.of_two("dropout, resumed"), runs.of_two("dropout"))


@pytest.mark.parametrize("name", ["padded", "full"])
def test_two_processes_resume_what_one_began(runs: Runs, name: str) -> None:
    assert_close(runs.of_two(f"{name}, from one"), runs.of_one(name))


@pytest.mark.parametrize("name", ["padded", "full"])
def test_one_process_resumes_what_two_began(runs: Runs, name: str, tmp_path: Path) -> None:
    shutil.copytree(runs.of_two(name), tmp_path / "run")
    undo(tmp_path / "run", 8)
    overrides = [*settings(runs.folder, name, 1, ALIKE[name][1]), f"training.output={tmp_path / 'run'}"]
    train(load_recipe(runs.folder / f"{name}.yaml", overrides), resume=True)
    assert_close(tmp_path / "run", runs.of_one(name))


# Errors ------------------------------------------------------------------------------------------------------------


def test_as_many_processes_as_devices(runs: Runs) -> None:
    first, second = runs.errors("for four")
    assert first == second
    assert (
        "hardware.devices: 4, one process each, and there are 2 processes; start torchrun --nproc_per_node 4" in first
    )
    assert not runs.of_two("for four").exists()
