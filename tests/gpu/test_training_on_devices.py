"""Training on a device gives what training on the CPU gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multilora.recipe.file import load_recipe
from multilora.training.run import train
from tiny_run import make_recipe

_RUN = "from multilora_cli.main import run; run()"


def test_three_steps_are_those_of_a_cpu(device: str, tmp_path: Path) -> None:
    method = {"name": "multilora", "r": 4, "num_loras": 2}  # without dropout, whose masks depend on the device
    recipe = make_recipe(tmp_path, method, steps=3, save_every=3, log_every=1)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RUN, "train", str(recipe), "--set", f"training.output={tmp_path / 'on-cpu'}"]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = train(load_recipe(recipe))
    assert f'"device": "{device}' in (result.folder / "results.json").read_text()
    found = load_file(result.weights / "adapter_model.safetensors")
    expected = load_file(tmp_path / "on-cpu" / "adapter" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    moved = [name for name in expected if "multilora_scaling" in name]
    assert any(expected[name].abs().max() > 0 for name in moved)  # the scale moves first
    for name, tensor in expected.items():
        # Adam's first steps are lr · sign of the gradient: where that is about zero, rounding decides it.
        far = (found[name] - tensor).abs() > 1e-3
        assert far.float().mean() <= (0.0 if device == "cpu" else 0.01), name
    losses = [
        [float(line.split('"loss": ')[1].split(",")[0]) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (result.folder, tmp_path / "on-cpu")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
def test_bf16_trains_on_a_gpu(tmp_path: Path) -> None:
    result = train(load_recipe(make_recipe(tmp_path, steps=3, save_every=3, log_every=1, precision="bf16")))
    assert (result.weights / "adapter_model.safetensors").is_file()
