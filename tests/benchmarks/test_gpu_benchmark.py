"""`benchmarks.gpu` at toy size on the CPU: what it writes, the bytes it counts, what it does without memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_targets, methods, products, rates
from multilora.bench.methods import MeasuredMethod

QUICK = ["--quick", "--repeats", "1", "--device", "cpu"]
SIZES = gpu.TOY
LINEARS = [(SIZES["d"], SIZES["d"])] * 4 + [(SIZES["d"], SIZES["mlp"])] * 2 + [(SIZES["mlp"], SIZES["d"])]
PER_RANK = SIZES["layers"] * sum(map(sum, LINEARS))  # parameters of one rank in every adapted layer
OUTPUTS = SIZES["layers"] * sum(d_out for _, d_out in LINEARS)


def measured(output: Path, *arguments: str) -> dict[str, Any]:
    gpu.main([*QUICK, "--output", str(output), *arguments])
    assert "ours" in output.with_suffix(".txt").read_text()
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("gpu") / "gpu.json", "--num-loras", "1", "3")


def groups(record: dict[str, Any], checkpointing: str) -> list[dict[str, Any]]:
    return [group for group in record["groups"] if group["checkpointing"] == checkpointing]


def test_record_has_every_figure_of_every_method(record: dict[str, Any]) -> None:
    assert record["machine"]["gpu"] is None
    assert str(Path.home()) not in json.dumps(record)
    assert {"flops_per_second", "by_shape"} == record["matmul"].keys()
    assert record["matmul"]["by_shape"].keys() == {"64 x 64", "64 x 176", "176 x 64"}
    found = [(group["num_loras"], group["checkpointing"]) for group in record["groups"]]
    assert found == [(1, "off"), (1, "on"), (3, "off"), (3, "on")]
    for group in record["groups"]:
        assert list(group["methods"]) == list(gpu.METHODS)
        assert (group["memory_alone"], group["not_measured"]) == ({}, {})
        for name, entry in group["methods"].items():
            assert entry["rounds"] == len(entry["samples"]["forward"])
            assert ("optimizer" in entry["samples"]) == (name != methods.BASE)
            assert entry["tokens_per_second"]["forward"] > entry["tokens_per_second"]["step"] > 0
            assert entry["share_of_matmul_rate"]["step"] > 0
            assert entry["launch_seconds"] > 0
            assert {"speed_over_lora", "forward_and_backward_over_lora", "difference_from_lora"} <= entry.keys()


def test_weights_gradients_and_optimizer_are_those_of_arithmetic(record: dict[str, Any]) -> None:
    for group in record["groups"]:
        rank = group["num_loras"] * group["r"]
        expected = dict.fromkeys((methods.LORA, methods.LORAS), rank * PER_RANK) | {methods.BASE: 0}
        expected[methods.VECTOR] = rank * PER_RANK + group["num_loras"] * OUTPUTS
        for name, entry in group["methods"].items():
            count, kinds = expected[name], entry["bytes"]
            assert entry["trainable_parameters"] == count
            assert kinds["gradients"] == 4 * count
            assert 0 <= kinds["optimizer"] - 2 * 4 * count < 4096  # and a step count for each tensor
            assert 0 <= kinds["weights"] - 2 * record["base_parameters"] - 4 * count < 4096  # and rotary frequencies
            assert kinds["rest"] == kinds["peak"] - kinds["weights"] - kinds["optimizer"]
            assert kinds["rest"] >= kinds["activations"]


def test_memory_grows_by_parameters_and_tokens_times_rank_alone(record: dict[str, Any]) -> None:
    small, large = groups(record, "off")
    more = [group["methods"][methods.VECTOR]["bytes"]["activations"] for group in (small, large)]
    ranks = 2 * SIZES["r"]
    assert more[1] - more[0] == record["adapted_layers"] * large["tokens"] * ranks * 2
    grown = [entry for entry in record["targets"] if entry["figure"] == "peak_growth"]
    assert len(grown) == 2
    assert all(entry["met"] for entry in grown)
    parameters = ranks * PER_RANK + 2 * OUTPUTS
    assert grown[0]["target"] == 16 * parameters + record["adapted_layers"] * large["tokens"] * ranks * 2


def test_checkpointing_keeps_less_and_nobody_keeps_less_than_the_base(record: dict[str, Any]) -> None:
    for without, with_ in zip(groups(record, "off"), groups(record, "on"), strict=True):
        for name in gpu.METHODS:
            assert (
                with_["methods"][name]["bytes"]["activations"] < 0.6 * without["methods"][name]["bytes"]["activations"]
            )
        kept = {name: entry["bytes"]["activations"] for name, entry in without["methods"].items()}
        assert kept[methods.BASE] < kept[methods.VECTOR] < kept[methods.LORA]  # whose x is in fp32


def test_a_toy_run_claims_nothing(record: dict[str, Any]) -> None:
    assert record["targets_apply"] is False
    shape = {"options": gpu_targets.SHAPE | {"device": "cuda"}}
    assert gpu_targets.apply(shape)
    assert not gpu_targets.apply({"options": gpu_targets.SHAPE | {"device": "cpu"}})


def test_adapters_in_bf16_have_half_the_bytes_and_a_scale_in_fp32(tmp_path: Path) -> None:
    options = ["--num-loras", "2", "--adapter-dtype", "bf16", "--checkpointing", "off"]
    (group,) = measured(tmp_path / "bf16.json", *options)["groups"]
    pairs = 2 * SIZES["r"] * PER_RANK
    assert group["methods"][methods.LORA]["bytes"]["gradients"] == 2 * pairs
    assert group["methods"][methods.VECTOR]["bytes"]["gradients"] == 2 * pairs + 4 * 2 * OUTPUTS


@pytest.mark.parametrize("rank", [0, 12])
def test_necessary_operations_are_those_that_torch_counts(rank: int) -> None:
    options = gpu.parsed([*QUICK])
    base = gpu.base_model(gpu.llama(options), bf16=True, device="cpu")
    values = methods.draw_values(base, 3, max(rank // 3, 1))
    method = gpu.build(methods.VECTOR if rank else methods.BASE, base, values, False, options)
    tokens = torch.randint(options.vocabulary, (2, options.length))
    with FlopCounterMode(display=False) as counter:
        loss = method.loss(tokens)
        forward = counted(counter)
        loss.backward()
    head = (options.d, options.vocabulary)
    work = rates.necessary(LINEARS * options.layers, head, 2, options.length, options.layers, rank)
    attention = options.layers * 6 * 2 * options.length**2 * options.d
    assert work.step - attention == counted(counter)
    assert work.forward - attention // 3 == forward
    assert work.step - attention == sum(
        products.base_flops(tokens.numel(), *shape) for shape in [*LINEARS * options.layers, head]
    ) + sum(products.low_rank_flops(tokens.numel(), *shape, rank) for shape in LINEARS * options.layers)


def counted(counter: FlopCounterMode) -> int:
    """Operations of matrix products, attention's apart."""
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if str(operation) in ("aten.mm", "aten.addmm"))


def test_the_causal_half_of_attention_is_what_its_six_products_need() -> None:
    q, k, v = (torch.randn(2, 4, 32, 16, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        scores = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        scores.sum().backward()
    work = rates.necessary([], (64, 0), 2, 32, 1, 0)  # four heads of 16
    assert work.step == counter.get_total_flops() // 2
    assert work.forward == work.step // 3


Loss = Callable[[MeasuredMethod, Tensor], Tensor]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, good_calls: int) -> None:
    """Let a method run out of memory after some forward passes with gradients."""
    real, calls = MeasuredMethod.loss, [0]

    def loss(self: MeasuredMethod, tokens: Tensor) -> Tensor:
        calls[0] += self.name == name
        if self.name == name and calls[0] > good_calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return real(self, tokens)

    monkeypatch.setattr(MeasuredMethod, "loss", loss)


@pytest.mark.parametrize(("good_calls", "alone"), [(0, []), (11, [methods.LORAS])])
def test_out_of_memory_is_recorded_and_the_others_are_measured(
    good_calls: int, alone: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, methods.LORAS, good_calls)
    record = measured(tmp_path / "small.json", "--num-loras", "3", "--checkpointing", "off")
    (group,) = record["groups"]
    assert list(group["methods"]) == [methods.BASE, methods.LORA, methods.VECTOR]
    assert list(group["memory_alone"]) == alone
    (reason,) = group["not_measured"].values()
    assert reason.startswith("out of memory: CUDA")
    assert reason.endswith("Tried to allocate 2 GiB" + (" (beside the other methods)" if alone else ""))
    assert {entry["rounds"] for entry in group["methods"].values()} == {1}
    assert reason in (tmp_path / "small.txt").read_text().replace("\n", " ")


def test_without_lora_nothing_is_compared_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, methods.LORA, 0)
    record = measured(tmp_path / "small.json", "--num-loras", "3", "--checkpointing", "off")
    assert "speed_over_lora" not in record["groups"][0]["methods"][methods.VECTOR]
    assert record["targets"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "needs a GPU" in printed.err
    assert "--device cpu" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--r", "0"], "--r must be at least 1"),
        (["--num-loras", "3", "3"], "--num-loras: each at least 1, and once"),
        (["--d", "100", "--heads", "3"], "--d must be an even multiple of --heads"),
    ],
)
def test_bad_sizes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--device", "cpu", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC 11.4",
            "550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build", "565.57.01"),
        ("something else", None),
    ],
)
def test_the_driver_is_read_from_its_own_words(text: str, version: str | None) -> None:
    assert rates.driver_version(text) == version
