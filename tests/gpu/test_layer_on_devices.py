"""The layer on a device: the formula in fp64, moves, files, compiled blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from multilora import MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear

D_IN, D_OUT, N, R, ALPHA = 48, 40, 3, 4, 8
# Of the largest value. bf16 has 8 bits; W, x and h are rounded to them, and so are the results.
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "autocast": 3e-2}

Made = Callable[..., PreTrainedModel]


def formula(x: Tensor, layer: MultiLoraLinear) -> tuple[Tensor, dict[str, Tensor]]:
    """x Wᵀ + b + alpha/r · Σ tanh(c·s_i) ⊙ (x A_iᵀ B_iᵀ) in fp64 on the CPU, module by module, and its leaves."""
    base: Any = layer.get_base_layer()
    named = {"x": x, "A": layer.multilora_A["default"].weight, "B": layer.multilora_B["default"].weight}
    if "default" in layer.multilora_scaling:
        named["s"] = layer.multilora_scaling["default"].weight
    leaves = {name: t.detach().cpu().double().requires_grad_() for name, t in named.items()}
    W, b = (t.detach().cpu().double() for t in (base.weight, base.bias))
    y = leaves["x"] @ W.t() + b
    for i, (A, B) in enumerate(zip(leaves["A"].chunk(N), leaves["B"].chunk(N, dim=1), strict=True)):
        of_module = leaves["x"] @ A.t() @ B.t() * (ALPHA / R)
        scale = torch.tanh(layer.scaling_constant["default"] * leaves["s"][i]) if "s" in leaves else 1.0
        y = y + of_module * scale
    return y, leaves


def adapted_layer(device: str, dtype: torch.dtype, scaling: str) -> MultiLoraLinear:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D_IN, D_OUT)).to(device, dtype)
    config = MultiLoraConfig(
        r=R, num_loras=N, lora_alpha=ALPHA, scaling=scaling, init_weights=False, target_modules=["0"]  # type: ignore[arg-type]
    )  # fmt: skip
    layer = get_peft_model(model, config).base_model.model[0]
    assert isinstance(layer, MultiLoraLinear)
    return layer


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
@pytest.mark.parametrize("setting", list(TOLERANCE))
def test_values_and_gradients_are_those_of_the_formula(device: str, setting: str, scaling: str) -> None:
    dtype = torch.bfloat16 if setting == "bf16" else torch.float32
    layer = adapted_layer(device, dtype, scaling)
    parameters = {"A": layer.multilora_A["default"].weight, "B": layer.multilora_B["default"].weight}
    parameters |= {"s": layer.multilora_scaling["default"].weight} if scaling != "none" else {}
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert {p.device.type for p in parameters.values()} == {device}
    x = torch.randn(5, 7, D_IN, device=device).to(dtype).requires_grad_()
    with torch.autocast(device, torch.bfloat16) if setting == "autocast" else nullcontext():
        y = layer(x)
    expected, leaves = formula(x, layer)
    g = torch.randn(expected.shape).to(y.dtype)
    y.backward(g.to(device))
    expected.backward(g.double())
    found = {"y": y, "x": x.grad} | {name: p.grad for name, p in parameters.items()}
    wanted = {"y": expected} | {name: leaf.grad for name, leaf in leaves.items()}
    for name, value in wanted.items():
        got = found[name]
        assert value is not None
        assert got is not None
        error = (got.detach().cpu().double() - value.detach()).abs().max() / value.detach().abs().max()
        assert error <= TOLERANCE[setting], name


def adapted(model: nn.Module, **changes: Any) -> PeftModel:
    torch.manual_seed(1)
    settings = {"r": 4, "num_loras": 2, "target_modules": "all-linear", "init_weights": False, "task_type": "CAUSAL_LM"}
    return get_peft_model(model, MultiLoraConfig(**(settings | changes)))  # type: ignore[arg-type]


def logits(model: nn.Module, device: str) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(12, device=device)[None]).logits.cpu()


def test_an_adapted_model_moves_to_the_device_and_back(make_llama: Made, device: str) -> None:
    model = adapted(make_llama())
    before = logits(model, "cpu")
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.to(device)
    assert {p.device.type for p in model.parameters()} == {device}
    torch.testing.assert_close(logits(model, device), before, rtol=0, atol=1e-4)
    model.add_adapter("other", MultiLoraConfig(r=2, num_loras=3, target_modules="all-linear"))
    assert {p.device.type for p in model.parameters()} == {device}
    model.to("cpu")
    assert all(torch.equal(model.get_parameter(name), p) for name, p in kept.items())


def test_files_written_on_the_cpu_are_loaded_on_the_device_and_back(
    make_llama: Made, device: str, tmp_path: Path
) -> None:
    on_cpu = adapted(make_llama())
    expected = logits(on_cpu, "cpu")
    on_cpu.save_pretrained(tmp_path / "cpu")
    loaded = PeftModel.from_pretrained(make_llama().to(device), tmp_path / "cpu")
    assert {p.device.type for p in loaded.parameters()} == {device}
    torch.testing.assert_close(logits(loaded, device), expected, rtol=0, atol=1e-4)
    loaded.save_pretrained(tmp_path / "device")
    again = PeftModel.from_pretrained(make_llama(), tmp_path / "device")
    assert torch.equal(logits(again, "cpu"), expected)  # the weights came back to the bit


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs CUDA")
@pytest.mark.gpu
def test_an_adapter_in_pinned_memory_is_moved_without_waiting() -> None:
    layer = adapted_layer("cpu", torch.float32, "vector")
    for parameter in layer.parameters():
        parameter.data = parameter.data.pin_memory()
    x = torch.randn(4, D_IN)
    expected = layer(x).detach()
    for parameter in layer.parameters():
        parameter.data = parameter.data.to("cuda", non_blocking=True)
    torch.testing.assert_close(layer(x.cuda()).detach().cpu(), expected, rtol=0, atol=1e-5)


def test_merged_is_adapted_on_the_device(make_llama: Made, device: str) -> None:
    model = adapted(make_llama().to(device))
    expected = logits(model, device)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, device), expected, rtol=0, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, device), expected, rtol=0, atol=1e-4)


def step(model: Any, device: str) -> tuple[float, Mapping[str, Tensor]]:
    """Loss and gradients of a training step."""
    tokens = torch.arange(24, device=device).view(2, 12)
    model.train()
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_compiled_block_trains_as_an_eager_one(make_llama: Made, device: str, dtype: torch.dtype) -> None:
    eager = adapted(make_llama().to(device, dtype))
    compiled = copy.deepcopy(eager)
    # On the CPU the code is only traced: inductor needs a compiler there, and a minute.
    backend = "inductor" if device == "cuda" else "aot_eager"
    for block in compiled.get_base_model().model.layers:
        block.compile(backend=backend)
    try:
        loss, gradients = step(eager, device)
        found, compiled_gradients = step(compiled, device)
    finally:
        torch.compiler.reset()
    tolerance = 1e-4 if dtype is torch.float32 else 5e-2
    assert found == pytest.approx(loss, rel=tolerance)
    assert compiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max()
        assert scale > 0
        assert (compiled_gradients[name] - gradient).abs().max() <= tolerance * scale, name
