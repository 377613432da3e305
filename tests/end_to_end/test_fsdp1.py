"""FSDP1 with PEFT's policy of what to wrap, in two processes on the CPU: what one process trains, saved whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from end_to_end.fsdp1_in_processes import adapted, train, variants
from places import ROOT
from tiny_run import make_model

VARIANTS = variants(find_spec("bitsandbytes") is not None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saw and saved."""
    folder = tmp_path_factory.mktemp("fsdp1")
    make_model(folder / "model", attention_bias=True)
    quantised = "quantised" if len(VARIANTS) > len(variants(quantised=False)) else "plain"
    script = str(ROOT / "tests/end_to_end/fsdp1_in_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, script, str(folder), quantised],
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("tests", "src"))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    return first, second


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_what_one_trains(
    folder: Path, seen: tuple[dict[str, Any], dict[str, Any]], name: str
) -> None:
    first, second = (each[name] for each in seen)
    model = adapted(folder, VARIANTS[name])
    losses = train(model, rank=None)
    assert first["losses"] == second["losses"] == pytest.approx(losses, rel=1e-5)
    assert losses[2] < losses[0] - 1e-3
    assert first["wrapped"] == first["leaves"] > 0
    saved = load_file(folder / name / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(model)
    assert saved.keys() == expected.keys()
    tolerance = 1e-5 if VARIANTS[name].dtype == "float32" else 1e-3
    for key, tensor in expected.items():
        assert torch.allclose(saved[key], tensor, rtol=0, atol=tolerance), key


def test_each_process_holds_half(folder: Path, seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
    whole = sum(parameter.numel() for parameter in adapted(folder, VARIANTS["float32, False"]).parameters())
    first, second = (each["float32, False"]["own"] for each in seen)
    assert whole <= first + second <= 1.01 * whole


def test_what_was_saved_is_loaded(folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    loaded: Any = PeftModel.from_pretrained(base, str(folder / "float32, True"))
    saved = load_file(folder / "float32, True" / "adapter_model.safetensors")
    state = get_peft_model_state_dict(loaded)
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[key], saved[key]) for key in saved)
