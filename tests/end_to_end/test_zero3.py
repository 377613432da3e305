"""MultiLoRA under DeepSpeed's ZeRO-3, in two processes on the CPU: what one process trains, saved whole."""

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
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from end_to_end.zero3_in_processes import PROMPT, adapted, batches, trained
from places import ROOT
from tiny_run import make_model

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


@pytest.fixture(scope="module", params=["multilora", "multilora, checkpointing", "scalar", "lora", "multilora in bf16"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with what two processes saw and saved, the method and the dtype."""
    method = request.param.partition(",")[0].partition(" ")[0]
    folder = tmp_path_factory.mktemp("zero3")
    make_model(folder / "model")
    job: dict[str, Any] = {"model": str(folder / "model"), "method": method, "out": str(folder)}
    job["dtype"] = "bfloat16" if "bf16" in request.param else "float32"
    job["checkpointing"] = "checkpointing" in request.param
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("tests", "src")),
        "DS_ACCELERATOR": "cpu",
    }
    script = ROOT / "tests/end_to_end/zero3_in_processes.py"
    result = subprocess.run(
        [*command, str(script), "job.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder, method, job["dtype"]


def test_two_processes_train_what_one_trains(run: tuple[Path, str, str]) -> None:
    folder, method, dtype = run
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    model = adapted(str(folder / "model"), method, dtype)
    if dtype == "float32":
        model.eval()
        assert model.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False).tolist() == first["before"]
    model.train()
    optimizer = torch.optim.AdamW(trained(model), lr=5e-3)
    losses: list[float] = []
    for rows in batches():
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained(model), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(losses, rel=1e-5 if dtype == "float32" else 1e-3)
    if dtype == "float32":
        model.eval()
        assert model.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False).tolist() == first["after"]
        state = load_file(folder / "state.safetensors")
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert torch.allclose(state[name], parameter, rtol=0, atol=1e-5), name


def test_each_process_holds_its_share(run: tuple[Path, str, str]) -> None:
    first, second = (json.loads((run[0] / f"{rank}.json").read_text()) for rank in (0, 1))
    for name, whole in first["whole"].items():
        assert first["own"][name] + second["own"][name] == whole + whole % 2, name
    assert first["gathered"] == second["gathered"] == 0


def test_whole_tensors_are_saved_and_load_as_they_are(run: tuple[Path, str, str]) -> None:
    folder, method, dtype = run
    state = load_file(folder / "state.safetensors")
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype))
    loaded: Any = PeftModel.from_pretrained(base, str(folder / "adapter"))
    named = {name: parameter for name, parameter in loaded.named_parameters() if "lora_" in name}
    expected = adapted(str(folder / "model"), method, dtype)
    assert named.keys() == {name for name, p in expected.named_parameters() if p.requires_grad}
    for name, parameter in named.items():
        assert torch.equal(parameter, state[name]), name
        assert parameter.shape == expected.get_parameter(name).shape
