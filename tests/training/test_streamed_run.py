"""Runs whose rows are read as training goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from multilora import InputError
from multilora.recipe.file import load_recipe
from multilora.terminal import Silent
from multilora.training.run import RunResult, train
from tiny_run import make_recipe, read_lines

STREAMING = ("mixture.streaming=true", "mixture.shuffle_buffer=8")
PACKED = ("training.packing=true", "training.batch_size=1", "training.gradient_accumulation=2")


class Interrupting(Silent):
    def __init__(self, at: int) -> None:
        self._at = at

    def step(self, step: int, metrics: Any) -> None:
        if step == self._at:
            raise KeyboardInterrupt


def run(path: Path, *overrides: str, **options: Any) -> RunResult:
    return train(load_recipe(path, [*STREAMING, *overrides]), **options)


def outcome(result: RunResult) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], Any]:
    lines = read_lines(result.folder / "metrics.jsonl")
    for line in lines:
        del line["seconds"], line["tokens_per_second"]
    return load_file(result.weights / "adapter_model.safetensors"), lines, result.results.tasks


@pytest.mark.parametrize("options", [(), PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("step", [3, 10])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, options: tuple[str, ...], step: int) -> None:
    path = make_recipe(tmp_path)  # with dropout
    whole = outcome(run(path, *options, f"training.output={tmp_path / 'whole'}"))
    with pytest.raises(KeyboardInterrupt):
        run(path, *options, progress=Interrupting(step))
    resumed = outcome(run(path, *options, resume=True))
    assert resumed[1:] == whole[1:]
    assert all(torch.equal(tensor, resumed[0][name]) for name, tensor in whole[0].items())


def test_a_stream_learns_what_an_encoded_mixture_learns(tmp_path: Path) -> None:
    method = {"name": "multilora", "r": 4, "num_loras": 2}
    path = make_recipe(tmp_path, method, steps=1, batch_size=70, log_every=1, on_long_example="fail")
    equal = ("tasks.a.rate=4", "tasks.b.rate=3")  # one pass is then all 70 rows
    encoded = train(load_recipe(path, equal))
    result = run(path, *equal, f"training.output={tmp_path / 'streamed'}", "mixture.shuffle_buffer=70")
    first, second = (read_lines(each.folder / "metrics.jsonl")[0] for each in (encoded, result))
    assert second["loss"] == pytest.approx(first["loss"], rel=0.02)  # turns are exact over 1,000 draws, not over 70
    assert "epoch" not in second
    assert result.results.epochs is None
    assert sum(task.drawn or 0 for task in result.results.tasks.values()) == 70


def test_the_results_tell_what_became_of_the_rows(tmp_path: Path) -> None:
    path = make_recipe(tmp_path, steps=30)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"q": "one"}\n')
    tasks = run(path, "tasks.a.on_bad_row=skip").results.tasks
    assert tasks["a"].rows == 41
    assert tasks["a"].skipped == 1
    assert tasks["a"].passes == 2  # 80 of 120 draws
    drawn = [task.drawn or 0 for task in tasks.values()]
    assert sum(drawn) == 120
    assert abs(drawn[0] - 80) < 10
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["tasks"]["b"]["files"][0]["bytes"] == (tmp_path / "b.jsonl").stat().st_size


def test_a_bad_row_in_the_middle_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    path = make_recipe(tmp_path, steps=1000, batch_size=128, save_every=10)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.writelines('{"q": "one", "a": "two"}\n' for _ in range(2000))
        file.write("not json\n")
    with pytest.raises(InputError, match=r"tasks\.a: a\.jsonl line 2041: not JSON"):
        run(path)
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_bad_row_at_the_beginning_leaves_nothing(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    (tmp_path / "b.jsonl").write_text("not json\n")
    with pytest.raises(InputError, match=r"tasks\.b: b\.jsonl line 1: not JSON"):
        run(path)
    assert not (tmp_path / "run").exists()


def test_a_stream_whose_files_have_changed_is_not_resumed(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(path, progress=Interrupting(5))
    os.utime(tmp_path / "b.jsonl", ns=(0, 0))
    with pytest.raises(InputError, match=r"the files \(names, sizes, times\) of b have changed"):
        run(path, resume=True)
