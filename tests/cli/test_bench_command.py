"""`multilora bench`: the bytes are those of arithmetic, every figure is there, and bad options are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from multilora import InputError
from multilora.bench.methods import MeasuredMethod
from multilora.bench.record import read_bench
from multilora.bench.run import TOY, BenchOptions, bench
from multilora_cli.main import app

BLOCKS, WIDTH, MLP = TOY["num_hidden_layers"], TOY["hidden_size"], TOY["intermediate_size"]
LAYERS = 7 * BLOCKS


def measured(**options: Any) -> dict[str, Any]:
    given = {"batch": 2, "lengths": (8, 16), "minutes": 0.0, "repeats": 1, "device": "cpu"}
    return bench(BenchOptions(**(given | options)), lambda text: None).content()


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measured()


def trained(rank: int) -> int:
    return BLOCKS * rank * (4 * 2 * WIDTH + 3 * (WIDTH + MLP))


def scales(n: int) -> int:
    return BLOCKS * n * (5 * WIDTH + 2 * MLP)


def test_parameters_gradients_and_optimizer_are_those_of_arithmetic(result: dict[str, Any]) -> None:
    base = result["base_parameters"]
    expected = {"frozen base": 0, "full": base, "lora@8": trained(8), "lora@24": trained(24)}
    expected |= {f"multilora@{n}x8": trained(8 * n) + scales(n) for n in (1, 3, 5)}
    for at in result["lengths"].values():
        assert {name: method["trainable_parameters"] for name, method in at["methods"].items()} == expected
        for name, method in at["methods"].items():
            count, kinds = expected[name], method["bytes"]
            assert kinds["gradients"] == 4 * count
            steps = kinds["optimizer"] - 2 * 4 * count  # Adam's two averages, and a step count for each tensor
            assert 0 <= steps <= 4 * 4 * LAYERS + 400
            assert method["adapter_bytes"] in (4 * count, None)
            own = 0 if name in ("frozen base", "full") else 4 * count
            assert 0 <= kinds["weights"] - 4 * base - own < 4096  # the rotary frequencies
            parts = sum(kinds[kind] for kind in ("weights", "optimizer"))
            assert kinds["peak"] >= parts + kinds["activations"]


def test_a_module_more_keeps_its_A_x_and_nothing_else(result: dict[str, Any]) -> None:
    for length, at in result["lengths"].items():
        assert result["growth"]["modules"][length]["per_module"] == at["tokens"] * 8 * LAYERS * 4
        kept = {name: method["bytes"]["activations"] for name, method in at["methods"].items()}
        assert kept["multilora@3x8"] == kept["lora@24"]  # of equal rank
        assert kept["multilora@1x8"] == kept["lora@8"]


def test_every_method_has_its_speeds(result: dict[str, Any]) -> None:
    assert result["reference"] == "lora@24"
    for at in result["lengths"].values():
        for name, method in at["methods"].items():
            speed = method["tokens_per_second"]
            assert speed["forward"] > speed["step"] > 0
            if name == "lora@24":
                assert speed["over_reference"]["median"] == 1.0


def test_bf16_halves_the_bases_bytes() -> None:
    at = measured(bf16=True, lengths=(8,), methods=["multilora@2x4"])["lengths"]["8"]
    (method,) = at["methods"].values()
    assert method["adapter_bytes"] == 4 * (trained(8) + scales(2))
    assert method["bytes"]["weights"] < 0.6 * 4 * measured(lengths=(8,), methods=["full"])["base_parameters"]


def test_checkpointing_keeps_less() -> None:
    def kept(checkpointing: bool) -> int:
        found = measured(lengths=(64,), methods=["multilora@3x8"], checkpointing=checkpointing)
        return found["lengths"]["64"]["methods"]["multilora@3x8"]["bytes"]["activations"]

    assert kept(True) < 0.6 * kept(False)


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    options = ["--methods", "full,multilora@2x2", "--seq-len", "8", "--batch", "1", "--minutes", "0", "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", *options, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "multilora@2x2" in result.output
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(written["lengths"]["8"]["methods"]) == ["full", "multilora@2x2"]
    assert str(tmp_path) not in json.dumps(written)
    assert read_bench(tmp_path / "out").names == ["full", "multilora@2x2"]
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"bench.json", "bench.txt", "report.html", "figures"}
    assert "multilora@2x2" in (tmp_path / "out" / "bench.txt").read_text()
    assert 'id="bench-memory"' in (tmp_path / "out" / "report.html").read_text()
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {
        f"{name}-{width}.{kind}" for name in ("speed", "memory") for width in ("single", "double")
        for kind in ("png", "svg")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"lengths": (8, 8)}, "lengths: name each length once"),
        ({"lengths": ()}, "lengths"),
        ({"methods": ["lora-8"]}, "unknown method"),
        ({"device": "tpu"}, "device must be"),
        ({"model": "no/such/folder/here"}, "no/such/folder/here"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "0"], "--rank must be at least 1; got 0"),
        (["--seq-len", "8,8"], "--seq-len: name each length once; got [8, 8]"),
        (["--device", "tpu"], "--device must be cpu or cuda; got 'tpu'"),
    ],
)
def test_the_command_names_flags(arguments: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(found.exception, InputError)
    assert str(found.exception) == message


def test_a_method_without_memory_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = MeasuredMethod.loss, [0]

    def loss(self: MeasuredMethod, tokens: torch.Tensor) -> torch.Tensor:
        calls[0] += self.name == "lora@4"
        if self.name == "full" or (self.name == "lora@4" and calls[0] > 4):  # three calls alone, then the rounds
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return real(self, tokens)

    monkeypatch.setattr(MeasuredMethod, "loss", loss)
    found = measured(lengths=(8,), methods=["full", "lora@4", "multilora@2x2"])
    assert list(found["lengths"]["8"]["methods"]) == ["multilora@2x2"]
    assert found["lengths"]["8"]["methods"]["multilora@2x2"]["tokens_per_second"]["over_reference"] is None
    said = {fault["method"]: fault["message"] for fault in found["faults"]}
    assert said == {
        "full": "CUDA out of memory. Tried to allocate 2 GiB",
        "lora@4": "CUDA out of memory. Tried to allocate 2 GiB (beside the other methods)",
    }


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no bench"):
        measured(out=tmp_path)
