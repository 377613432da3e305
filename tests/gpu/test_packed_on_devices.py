"""Adapters on 4-bit layers of bitsandbytes, on a device: the base layer's own result plus the low-rank part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from multilora import MultiLoraConfig
from multilora.tuner.functional import multilora_low_rank
from multilora.tuner.linear import MultiLoraLinear

bnb: Any = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'multilora[quantized]'")
D_IN, D_OUT = 128, 192


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_are_the_base_plus_the_low_rank_part(device: str, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = bnb.nn.Linear4bit(D_IN, D_OUT, bias=True, compute_dtype=dtype, quant_type=kind)
    model = nn.Sequential(base).to(device)  # packs the weight
    adapted = get_peft_model(model, MultiLoraConfig(r=4, num_loras=3, init_weights=False, target_modules=["0"]))
    layer = adapted.base_model.model[0]
    assert isinstance(layer, MultiLoraLinear)
    factors = layer.factors("default")
    assert {parameter.device.type for parameter in layer.parameters()} == {device}
    x = torch.randn(6, 5, D_IN, device=device).to(dtype).requires_grad_()
    other = x.detach().clone().requires_grad_()
    y = layer(x)
    expected = layer.base_layer(other)
    expected = expected + multilora_low_rank(other, factors).to(expected.dtype)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    g = torch.randn_like(y)
    y.backward(g)
    own = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    expected.backward(g)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, other.grad, rtol=0, atol=1e-2 if dtype is torch.bfloat16 else 1e-5)
    assert own.keys() == {f"multilora_{part}.default.weight" for part in ("A", "B", "scaling")}
    for name, gradient in own.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, layer.get_parameter(name).grad, rtol=1e-4, atol=1e-4)
