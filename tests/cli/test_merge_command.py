"""`multilora merge`: what the terminal shows, exit codes, signals, and a result that needs no multilora."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import children
from adapter_files import lora_config
from console import Run
from merging.merging_cases import assert_no_model, contents, multilora, save_adapter_of, save_llama, tensors
from multilora.adapter.config import AdapterConfig
from multilora.adapter.file import AdapterFile, open_adapter
from multilora.errors import InputError
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
from multilora.merging.verify import verify
from multilora.storage.folders import aside_of
from multilora.storage.rounding import TensorRounding
from multilora_cli import main
from multilora_cli.adapters import weights_of
from multilora_cli.show_merge import rounding_by_kind


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter_of(base, tmp_path / "adapter", multilora())


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    return save_adapter_of(base, tmp_path / "lora", lora_config())


def test_merge_says_where_what_and_how(run: Run, base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = run("merge", base, adapter, out, "--verify")
    assert code == 0
    assert f"merged {out}" in printed
    assert "14 tensors changed, 7 copied; float32, " in printed
    assert "in 3 files" in printed
    assert "nothing is rounded" in printed
    assert f"AutoModelForCausalLM.from_pretrained('{out}')" in printed
    difference = re.search(r"verified: logits differ .* by (\S+) of the largest \(at most (\S+)\)", printed)
    assert difference
    assert float(difference[1]) <= 1e-5 <= float(difference[2])
    assert "is the same at 100.0% of 128 positions" in printed
    code, printed, _ = run("merge", base, adapter, out)
    assert code == 0
    assert f"already merged {out}" in printed


def test_rounding_is_told_by_kind_of_layer(run: Run, base: Path, adapter: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = run("merge", base, adapter, lora, out, "--weights", "0.5,-0.25", "--dtype", "bfloat16")
    assert code == 0
    report = merge_adapters(base, [adapter, lora], out, MergeOptions(weights=(0.5, -0.25), dtype="bfloat16"))
    assert report.complete_before
    for kind in rounding_by_kind(report.rounding or ()):
        row = next(line for line in printed.splitlines() if line.split()[:1] == [kind.kind])
        assert f"{100 * kind.relative:.3g}" in row.split()
    assert "model.layers.*.mlp.up_proj" in printed
    _, printed, _ = run("merge", base, adapter, tmp_path / "none", "--dtype", "bfloat16", "--no-report")
    assert "error of rounding" not in printed
    assert "for the errors" not in printed


def test_verify_in_bf16_has_no_bound(run: Run, base: Path, adapter: Path, lora: Path, tmp_path: Path) -> None:
    code, printed, _ = run("merge", base, adapter, tmp_path / "out", "--dtype", "bfloat16", "--verify")
    assert code == 0
    assert re.search(r"verified: logits differ from the adapted model's by \S+ of the largest; ", printed)
    code, _, err = run("merge", base, adapter, lora, tmp_path / "both", "--verify")
    assert code == 2
    assert "either MultiLoRA or LoRA adapters" in err
    assert not (tmp_path / "both").exists()  # told before anything is merged


def test_verify_of_several_with_weights(run: Run, base: Path, lora: Path, tmp_path: Path) -> None:
    other = save_adapter_of(base, tmp_path / "other", lora_config(r=2, use_rslora=True))
    code, printed, _ = run("merge", base, lora, other, tmp_path / "out", "--weights", "0.5,-2", "--verify")
    assert code == 0
    assert "verified" in printed


def test_each_adapter_is_opened_once(
    run: Run, base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = AdapterFile.__init__

    def count(self: AdapterFile, folder: Path, adapter_config: AdapterConfig) -> None:
        opened.append(folder)
        real(self, folder, adapter_config)

    monkeypatch.setattr(AdapterFile, "__init__", count)
    assert run("merge", base, adapter, tmp_path / "out", "--verify")[0] == 0
    assert opened == [adapter]


def test_a_wrong_result_does_not_verify(
    run: Run, base: Path, adapter: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapted by another adapter than the one that was merged."""
    other = open_adapter(lora)
    monkeypatch.setattr(
        "multilora.merging.merge_and_verify.verify",
        lambda base, _, merged, exact: verify(base, [(other, 1.0)], merged, exact=exact),
    )
    code, printed, _ = run("merge", base, adapter, tmp_path / "out", "--verify")
    assert code == 1
    assert "not the same: logits differ" in printed


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["NOWHERE", "ADAPTER", "OUT"], "no model folder .*nearest: 'base'"),
        (["ADAPTER", "ADAPTER", "OUT"], "it holds an adapter; name its base model"),
        (["BASE", "NOWHERE", "OUT"], "no adapter folder"),
        (["BASE", "ADAPTER", "BASE"], "is an input of the merge"),
        (["BASE", "ADAPTER", "LORA"], "is not empty"),
        (["BASE", "ADAPTER", "OUT", "--weights", "1,2"], "weights has 2 numbers for 1 adapters"),
        (["BASE", "ADAPTER", "OUT", "--weights", "1;2"], "one number per adapter, with commas"),
        (["BASE", "ADAPTER", "OUT", "--dtype", "int8"], "int8"),
        (["BASE", "OUT"], "Missing argument"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    run: Run, base: Path, adapter: Path, lora: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    places = {"ADAPTER": adapter, "BASE": base, "LORA": lora, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "bass"}
    before = contents(tmp_path)
    code, out, err = run("merge", *(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert re.search(match, err)
    assert "Traceback" not in err
    assert not out
    assert contents(tmp_path) == before
    assert_no_model(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "1,", "one", "1 2"])
def test_weights_that_are_no_numbers(text: str) -> None:
    assert weights_of("0.7, -3e-1") == (0.7, -0.3)
    with pytest.raises(InputError, match="with commas"):
        weights_of(text)


def test_kinds_of_layers_are_the_worst_of_their_tensors() -> None:
    entries = [
        TensorRounding("model.layers.10.q.weight", 1.0, 0.1, None, 0.5),
        TensorRounding("model.layers.2.q.weight", 2.0, 0.05, 0.3, 0.25),
        TensorRounding("lm_head.weight", 3.0, 0.0, None, None),
    ]
    head, kind = rounding_by_kind(entries)
    assert (head.kind, head.count, head.relative_to_delta, head.lost) == ("lm_head", 1, None, None)
    assert (kind.kind, kind.count) == ("model.layers.*.q", 2)
    assert (kind.largest, kind.relative, kind.relative_to_delta, kind.lost) == (2.0, 0.1, 0.3, 0.5)


def test_the_result_loads_where_multilora_and_peft_are_not(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapters(base, [adapter], tmp_path / "out")
    script = (
        "import sys\nsys.modules['multilora'] = sys.modules['peft'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(float(model.lm_head.weight.sum()), sorted(model.state_dict())[:1])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in (tmp_path / "out").iterdir():
        if file.name not in ("merge_report.json", "README.md"):  # which say where the model is from
            assert b"multilora" not in file.read_bytes().lower()


# Signals -----------------------------------------------------------------------------------------------------------


def _slowly(arguments: list[str], ready: Path) -> None:
    """The command in a child process, which waits before the third file."""
    from multilora.merging import merge as merge_module

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
    torch.set_num_threads(1)
    merge_shard, calls = merge_module.merge_shard, list[str]()

    def waiting(shard: object, *rest: object) -> object:
        calls.append("")
        if len(calls) == 3:
            ready.touch()
            time.sleep(60)
        return merge_shard(shard, *rest)  # pyright: ignore

    merge_module.merge_shard = waiting  # pyright: ignore
    sys.argv = arguments
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    main.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_what_the_same_command_goes_on_with(
    base: Path, adapter: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, ready = tmp_path / "out", tmp_path / "ready"
    process = children.start(_slowly, ["multilora", "merge", str(base), str(adapter), str(out)], ready)
    deadline = time.monotonic() + 100
    while not ready.exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    assert_no_model(out)
    assert len(list(aside_of(out).glob("*.safetensors"))) == 2
    report = merge_adapters(base, [adapter], out)
    assert 0 < report.written < report.size
    merge_adapters(base, [adapter], tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert tensors(out)
