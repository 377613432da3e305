"""The law of memory on a device: a module more keeps its x Aᵀ, tokens × r, and its parameters; nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from multilora import MultiLoraConfig
from multilora.bench.kept import live_bytes

# Powers of two, below a mebibyte: CUDA's allocator gives multiples of 512 bytes, and more where a tensor is large.
TOKENS, D_IN, D_OUT, R = 128, 256, 512, 16


def kept_after(forward: Callable[[], Tensor], existing: list[Tensor], device: str) -> int:
    """Bytes that a forward pass leaves behind, but for its result: by the allocator on a GPU, else by live tensors."""
    if device == "cpu":
        return live_bytes(forward, existing)
    forward()  # workspaces that libraries keep are there from now on
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    result = forward()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before - result.untyped_storage().nbytes()


def kept(num_loras: int, device: str, dtype: torch.dtype, scaling: str) -> int:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(D_IN, D_OUT, bias=False)).to(device, dtype)
    settings: Any = {"r": R, "num_loras": num_loras, "scaling": scaling, "init_weights": False, "target_modules": ["0"]}
    model = get_peft_model(base, MultiLoraConfig(**settings))
    layer: Any = model.base_model.model[0]
    x = torch.randn(TOKENS, D_IN, device=device).to(dtype).requires_grad_()
    return kept_after(lambda: layer(x), [x, *model.parameters()], device)


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_module_more_keeps_tokens_times_r(device: str, dtype: torch.dtype, scaling: str) -> None:
    sizes = [kept(n, device, dtype, scaling) for n in (1, 3)]
    assert sizes == [n * TOKENS * R * dtype.itemsize for n in (1, 3)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
def test_what_the_allocator_tells_is_what_live_tensors_tell() -> None:
    base = nn.Sequential(nn.Linear(D_IN, D_OUT, bias=False)).to("cuda")
    model = get_peft_model(base, MultiLoraConfig(r=R, num_loras=3, init_weights=False, target_modules=["0"]))
    x = torch.randn(TOKENS, D_IN, device="cuda", requires_grad=True)
    existing = [x, *model.parameters()]
    assert kept_after(lambda: model(x), existing, "cuda") == live_bytes(lambda: model(x), existing)
