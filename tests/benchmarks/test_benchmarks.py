"""The benchmarks at toy size: what they write, and the bytes they count. Never the times."""

from __future__ import annotations

import ctypes
import gc
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common, group, layer, methods, products, targets, training
from multilora.bench import rounds
from multilora.bench.kept import live_bytes, saved_bytes

ITEM_SIZE = {"fp32": 4, "bf16": 2}


@pytest.fixture(scope="module")
def layer_record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("layer") / "deep" / "layer.json"
    layer.main(["--quick", "--minutes", "0", "--num-loras", "1", "3", "--output", str(output)])
    return _read(output)


@pytest.fixture(scope="module")
def training_record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("training") / "training.json"
    training.main(["--quick", "--minutes", "0", "--output", str(output)])
    return _read(output)


def _read(output: Path) -> dict[str, Any]:
    assert "PEFT LoRA" in output.with_suffix(".txt").read_text()
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", ["layer_record", "training_record"])
def test_record_has_every_figure_of_every_method(name: str, request: pytest.FixtureRequest) -> None:
    record = request.getfixturevalue(name)
    assert {"benchmark", "started", "options", "machine", "quiet", "groups"} <= record.keys()
    assert {"cpu", "cores", "threads", "python", "versions"} <= record["machine"].keys()
    settings = [(setting, n) for setting in ("fp32", "bf16") for n in record["options"]["num_loras"]]
    assert [(entry["setting"], entry["num_loras"]) for entry in record["groups"]] == settings
    for entry in record["groups"]:
        assert {"load_average_before", "load_average_after", "others_cpu"} <= entry["load"].keys()
        assert entry["necessary"]["seconds"].keys() >= {"median", "q1", "q3"}
        assert list(entry["methods"]) == [methods.BASE, *methods.ADAPTED]
        for method, figures in entry["methods"].items():
            assert len(figures["samples"]["forward"]) == len(figures["samples"]["backward"]) == entry["rounds"]
            assert figures["seconds"]["step"]["q1"] <= figures["seconds"]["step"]["median"]
            assert {"flops", "saved_bytes", "live_bytes", "speed_over_lora", "speed_over_n_loop"} <= figures.keys()
            assert ("step_over_necessary" in figures) == (method != methods.BASE)


def test_record_names_no_path_of_the_machine(training_record: dict[str, Any]) -> None:
    assert str(Path.home()) not in json.dumps(training_record)
    assert str(Path(__file__).parents[2]) not in json.dumps(training_record)


def test_all_methods_train_the_same_number_of_parameters_up_to_the_scale(layer_record: dict[str, Any]) -> None:
    for entry in layer_record["groups"]:
        counts = {name: figures["trainable_parameters"] for name, figures in entry["methods"].items()}
        n, d_out = entry["num_loras"], layer_record["options"]["d_out"]
        assert counts[methods.BASE] == 0
        assert counts[methods.LORAS] == counts[methods.LORA]
        assert counts[methods.SCALAR] == counts[methods.LORA] + n
        assert counts[methods.VECTOR] == counts[methods.LOOP] == counts[methods.LORA] + n * d_out


def test_bytes_of_one_layer_are_the_arithmetic_ones_in_both_counts(layer_record: dict[str, Any]) -> None:
    options = layer_record["options"]
    tokens, d_in, d_out = options["tokens"], options["d_in"], options["d_out"]
    for entry in layer_record["groups"]:
        n, rank, size = entry["num_loras"], entry["num_loras"] * entry["r"], ITEM_SIZE[entry["setting"]]
        x_and_h = tokens * (d_in + rank)
        expected = {
            methods.BASE: 0,
            methods.LORA: 4 * x_and_h,  # x and h in the adapter's fp32
            methods.LORAS: 4 * x_and_h,
            methods.LOOP: 4 * (x_and_h + n * tokens * d_out),
            methods.VECTOR: size * x_and_h,
            methods.SCALAR: size * x_and_h,
        }
        for count in ("saved_bytes", "live_bytes"):
            assert {name: figures[count] for name, figures in entry["methods"].items()} == expected, count


def test_bytes_of_a_step(training_record: dict[str, Any]) -> None:
    options = training_record["options"]
    tokens, d, hidden = options["batch"] * options["length"], options["d"], options["d"] * 11 // 4
    outputs = options["layers"] * (5 * d + 2 * hidden) * tokens  # of q, k, v, o, down and of gate, up
    for entry in training_record["groups"]:
        for figures in entry["methods"].values():
            assert figures["saved_bytes"] <= figures["live_bytes"] <= 1.1 * figures["saved_bytes"]
        saved = {name: figures["saved_bytes"] for name, figures in entry["methods"].items()}
        assert saved[methods.BASE] < saved[methods.VECTOR] == saved[methods.SCALAR]
        # The n-loop keeps n outputs of every layer that ours does not.
        assert saved[methods.LOOP] >= saved[methods.VECTOR] + 4 * entry["num_loras"] * outputs
        if entry["setting"] == "fp32":
            assert saved[methods.VECTOR] <= 1.01 * saved[methods.LORA]
        else:
            assert saved[methods.VECTOR] <= 0.80 * saved[methods.LORA]


def test_a_toy_run_claims_nothing(training_record: dict[str, Any]) -> None:
    assert training_record["targets_apply"] is False
    assert len(training_record["targets"]) == 2 * len(targets.TARGETS)


# The counts -----------------------------------------------------------------------------------------------------------


class _Hides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.hidden = x * 2
        return x * 3

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * ctx.hidden


def test_what_a_function_hides_from_the_hooks_is_alive() -> None:
    x = torch.randn(50, 20, requires_grad=True)
    assert saved_bytes(lambda: _Hides.apply(x), [x]) == 0
    assert live_bytes(lambda: _Hides.apply(x), [x]) == 50 * 20 * 4


def test_a_view_counts_as_its_whole_storage_and_once() -> None:
    x = torch.randn(100, 10, requires_grad=True)

    def forward() -> Tensor:
        y = x.exp()[:10]  # exp keeps its result, 100 × 10
        return (y * y).sum()  # the product keeps y twice, a view of the same

    assert saved_bytes(forward, [x]) == live_bytes(forward, [x]) == 100 * 10 * 4


def test_parameters_the_batch_and_the_result_do_not_count() -> None:
    linear, x = nn.Linear(30, 20), torch.randn(7, 30)
    existing = [x, *linear.parameters()]
    assert saved_bytes(lambda: linear(x), existing) == live_bytes(lambda: linear(x), existing) == 0
    assert saved_bytes(lambda: linear(x).exp(), existing) == 0  # kept, but the caller holds it anyway
    assert saved_bytes(lambda: linear(x), list(linear.parameters())) == 7 * 30 * 4


class _MallInfo2(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def test_live_bytes_agree_with_the_allocator() -> None:
    """glibc's own account of the bytes in use, which knows nothing of torch."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("no mallinfo2 in this system's C library (glibc 2.33 has it)")
    mallinfo2.restype = _MallInfo2

    def in_use() -> int:
        gc.collect()
        info = mallinfo2()
        return info.uordblks + info.hblkhd

    torch.manual_seed(0)
    base = nn.Sequential(*(nn.Linear(256, 256) for _ in range(4)))
    x = torch.randn(1024, 256, requires_grad=True)
    values = methods.draw_values(base, num_loras=3, r=8)
    for name in (methods.LORA, methods.LOOP, methods.VECTOR):
        model = methods.build(name, base, values)
        forward = model.forward
        expected = live_bytes(lambda forward=forward: forward(x), [x, *model.parameters()])
        result = forward(x)  # whatever the libraries set up once
        del result
        before = in_use()
        result = forward(x)
        assert in_use() - before - result.untyped_storage().nbytes() == pytest.approx(expected, rel=0.02), name
        del result


# The methods, the products --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_loras", [1, 3])
def test_all_methods_compute_the_same_function_and_gradients(num_loras: int) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(40, 24), nn.Linear(24, 33))
    values = methods.draw_values(base, num_loras, r=4)
    x, g = torch.randn(9, 40), torch.randn(9, 33)
    grad_x, grad_A = {}, {}
    for name in methods.ADAPTED:
        model = methods.build(name, base, values)
        leaf = x.clone().requires_grad_()
        model(leaf).backward(g)
        grad_x[name] = leaf.grad
        parts = [p.grad for key, p in model.named_parameters() if p.requires_grad and "_A" in key and "0." in key]
        parts = [p for p in parts if p is not None and p.shape[1] == 40]
        grad_A[name] = torch.cat(parts)
    assert grad_A[methods.LORA].shape == (num_loras * 4, 40)
    for grads in (grad_x, grad_A):
        for name in methods.ADAPTED:
            torch.testing.assert_close(grads[name], grads[methods.LORA], rtol=1e-4, atol=1e-5, msg=name)
    assert all(p.grad is None for p in base.parameters())


def test_a_method_that_computes_something_else_is_not_timed() -> None:
    y = torch.ones(3)
    assert common.check_same_function({"a": y, "b": y * 1.001}, "a", 0.01)["b"] == pytest.approx(0.001, rel=1e-3)
    with pytest.raises(RuntimeError, match="'b'"):
        common.check_same_function({"a": y, "b": y * 1.1}, "a", 0.01)
    with pytest.raises(RuntimeError, match="'b'"):
        common.check_same_function({"a": y, "b": y * float("nan")}, "a", 0.01)


def test_flops_are_those_that_torch_counts() -> None:
    tokens, d_in, d_out, rank = 16, 24, 40, 6
    expected = products.base_flops(tokens, d_in, d_out) + products.low_rank_flops(tokens, d_in, d_out, rank)
    base = nn.Sequential(nn.Linear(d_in, d_out, bias=False))
    model = methods.build(methods.LORA, base, methods.draw_values(base, 3, rank // 3))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(tokens, d_in, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == expected
    alone = products.Products(tokens, d_in, d_out, rank, torch.float32, with_base=True)
    with FlopCounterMode(display=False) as counter:
        alone.forward()
        alone.backward()
    assert counter.get_total_flops() == expected


def test_products_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    alone = products.Products(8, 12, 20, 4, torch.float64, with_base=True)
    alone.forward()
    alone.backward()
    for left, right, out in (*alone._forward, *alone._backward):
        torch.testing.assert_close(out, left @ right)
    shapes = [tuple(out.shape) for _, _, out in (*alone._forward, *alone._backward)]
    assert shapes == [(8, 20), (8, 4), (8, 20), (8, 12), (8, 4), (8, 12), (4, 12), (20, 4)]


# Rounds, targets ------------------------------------------------------------------------------------------------------


def test_rounds_have_every_case_once_after_changing_neighbours() -> None:
    order: list[str] = []
    cases = [rounds.Case(name, name, lambda name=name: order.append(name), lambda _: None) for name in ("a", "b", "c")]
    seconds = rounds.run_rounds(cases, repeats=50, minutes=0.0)
    assert gc.isenabled()
    assert {len(s["forward"]) for s in seconds.values()} == {rounds.LEAST_ROUNDS}
    made = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(made) == rounds.WARM_UP + rounds.LEAST_ROUNDS
    assert all(sorted(r) == ["a", "b", "c"] for r in made)
    assert {before for r in made for before, case in pairwise(r) if case == "b"} == {"a", "c"}


def test_speed_is_taken_within_each_round() -> None:
    seconds = {
        "ours": {"forward": [1.0, 10.0, 1.0], "backward": [1.0, 10.0, 1.0]},
        "theirs": {"forward": [2.0, 20.0, 3.0], "backward": [2.0, 20.0, 1.0]},
    }
    assert rounds.speed(seconds, "ours", "theirs") == {"median": 2.0, "q1": 2.0, "q3": 2.0, "min": 2.0}


@pytest.mark.parametrize(("speed", "met", "short_by"), [(1.10, True, 0.0), (1.05, False, 0.05)])
def test_targets_are_judged_by_the_measured_figures(speed: float, met: bool, short_by: float) -> None:
    figures = {
        "saved_bytes": 100,
        "live_bytes": 100,
        "speed_over_lora": {"median": speed},
        "speed_over_n_loop": {"median": 2.0},
    }
    entries = dict.fromkeys((methods.BASE, *methods.ADAPTED), figures)
    checked = targets.check(
        [
            {"setting": "bf16", "num_loras": 3, "methods": entries},
            {"setting": "bf16", "num_loras": 5, "methods": entries},
        ]
    )
    by_figure = {(c["figure"], c["method"]): c for c in checked}
    judged = by_figure["speed_over_lora", methods.VECTOR]
    assert judged["met"] is met
    assert judged["short_by"] == pytest.approx(short_by)
    assert by_figure["saved_bytes_over_lora", methods.VECTOR]["short_by"] == pytest.approx(0.25)
    assert len(checked) == 2 * sum(setting == "bf16" for setting, *_ in targets.TARGETS)


def test_targets_apply_to_the_default_shape_only() -> None:
    assert targets.apply(targets.SHAPE)
    assert not targets.apply(targets.SHAPE | {"d": 512})


def test_necessary_is_the_frozen_base_plus_the_low_rank_products() -> None:
    def times(step: float) -> dict[str, list[float]]:
        return {"forward": [step / 2] * 5, "backward": [step / 2] * 5, "optimizer": []}

    seconds = {name: times(2.0) for name in methods.ADAPTED} | {methods.BASE: times(1.0), group.PRODUCTS: times(0.5)}
    cases = [rounds.Case(name, name, lambda: None, lambda _: None, facts={"flops": 1}) for name in seconds]
    entry = group.record("fp32", 3, 32, cases, seconds, {}, products_lack_base=True)
    assert entry["necessary"]["seconds"]["median"] == pytest.approx(1.5)
    assert entry["methods"][methods.VECTOR]["step_over_necessary"]["median"] == pytest.approx(2 / 1.5)
    entry = group.record("fp32", 3, 32, cases, seconds, {}, products_lack_base=False)
    assert entry["necessary"]["seconds"]["median"] == pytest.approx(0.5)


def test_the_processor_clock_runs_one_thread(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    arguments = ["--quick", "--minutes", "0", "--clock", "cpu", "--settings", "fp32", "--num-loras", "3"]
    record = layer.main([*arguments, "--output", str(tmp_path / "cpu.json")])
    assert record["options"]["threads"] == record["machine"]["threads"] == 1
    torch.set_num_threads(threads)
