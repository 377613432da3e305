"""The adapted layer: which path it takes, several adapters, merging, mixed batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.pytorch_utils import Conv1D

from multilora import InputError
from multilora.tuner import linear as layer_module
from multilora.tuner.linear import MultiLoraLinear, can_adapt

D_IN, D_OUT = 12, 9


def make_layer(base: nn.Module | None = None, **arguments: Any) -> MultiLoraLinear:
    torch.manual_seed(0)
    base = nn.Linear(D_IN, D_OUT) if base is None else base
    return MultiLoraLinear(base, "default", **({"r": 2, "num_loras": 3, "init_weights": False} | arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two functions the layer called."""
    made: list[str] = []
    for name in ("multilora_linear", "multilora_low_rank"):
        function = getattr(layer_module, name)

        def spy(*args: Any, name: str = name, function: Any = function) -> Tensor:
            made.append(name)
            return function(*args)

        monkeypatch.setattr(layer_module, name, spy)
    return made


class _Subclass(nn.Linear):
    pass


def _own_forward(base: nn.Linear) -> None:
    base.forward = base.forward  # type: ignore[method-assign]


def _parametrized(base: nn.Linear) -> None:
    nn.utils.parametrizations.weight_norm(base)


NOT_PLAIN = {
    "forward hook": lambda base: base.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda base: base.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda base: base.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda base: base.register_full_backward_pre_hook(lambda *_: None),
    "accelerate's hook": lambda base: add_hook_to_module(base, ModelHook()),
    "an own forward": _own_forward,
    "a parametrization": _parametrized,
}


def test_plain_linear_takes_the_fused_path(calls: list[str]) -> None:
    make_layer()(torch.randn(4, D_IN))
    assert calls == ["multilora_linear"]


@pytest.mark.parametrize("why", NOT_PLAIN)
def test_anything_else_calls_the_base_layer(why: str, calls: list[str]) -> None:
    layer, x = make_layer(), torch.randn(4, D_IN)
    fused = layer(x)
    NOT_PLAIN[why](layer.base_layer)
    torch.testing.assert_close(layer(x), fused)
    assert calls == ["multilora_linear", "multilora_low_rank"]


def test_subclass_of_linear_is_called(calls: list[str]) -> None:
    make_layer(_Subclass(D_IN, D_OUT))(torch.randn(4, D_IN))
    assert calls == ["multilora_low_rank"]


def test_global_hooks_see_the_base_layer(calls: list[str]) -> None:
    layer, seen = make_layer(), []
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        layer(torch.randn(4, D_IN))
    finally:
        handle.remove()
    assert layer.base_layer in seen
    assert calls == ["multilora_low_rank"]


def test_dropout_shares_one_mask_and_leaves_the_base_s_input_alone(calls: list[str]) -> None:
    layer, x = make_layer(lora_dropout=0.5), torch.randn(64, D_IN)
    layer.train()
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x, 0.5)
    expected = layer.base_layer(x) + dropped @ layer.get_delta_weight("default").T
    torch.testing.assert_close(y, expected)
    assert calls == ["multilora_low_rank"]
    layer.eval()
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ layer.get_delta_weight("default").T)
    assert calls[-1] == "multilora_linear"


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
@pytest.mark.parametrize("base", [lambda: nn.Linear(D_IN, D_OUT, bias=False), lambda: Conv1D(D_OUT, D_IN)])
@pytest.mark.parametrize("safe_merge", [False, True])
def test_merged_equals_adapted_and_unmerge_restores(scaling: str, base: Any, safe_merge: bool) -> None:
    layer, x = make_layer(base(), scaling=scaling, lora_alpha=5), torch.randn(4, D_IN)
    weight, adapted = layer.base_layer.weight.clone(), layer(x)
    layer.merge(safe_merge=safe_merge)
    assert layer.base_layer.weight.is_contiguous()
    torch.testing.assert_close(layer(x), adapted)
    torch.testing.assert_close(layer.base_layer(x), adapted)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight, weight)
    torch.testing.assert_close(layer(x), adapted)


def test_merge_rounds_once() -> None:
    layer = make_layer(nn.Linear(D_IN, D_OUT).bfloat16())
    exact = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()
    layer.merge()
    assert layer.base_layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.base_layer.weight, exact.bfloat16())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_safe_merge_refuses_non_finite_numbers_and_keeps_the_weight(broken: float) -> None:
    layer = make_layer()
    with torch.no_grad():
        layer.multilora_A["default"].weight[0, 0] = broken
    weight = layer.base_layer.weight.clone()
    with pytest.raises(ValueError, match="The adapter default seems to be broken"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)
    assert not layer.merged


def test_active_adapters_add_up() -> None:
    layer, x = make_layer(), torch.randn(4, D_IN)
    layer.update_layer("other", r=3, num_loras=2, scaling="scalar", init_weights=False)
    layer.set_adapter(["default", "other"])
    deltas = {name: layer.get_delta_weight(name) for name in ("default", "other")}
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ (deltas["default"] + deltas["other"]).T)
    layer.set_adapter("other")
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ deltas["other"].T)
    layer.delete_adapter("other")
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ deltas["default"].T)
    for name in (*layer.adapter_layer_names, *layer.other_param_names):
        assert "other" not in getattr(layer, name)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_replacing_an_adapter_by_one_without_scale_drops_the_scale() -> None:
    layer = make_layer()
    layer.update_layer("default", r=2, num_loras=3, scaling="none", init_weights="lora")
    assert "default" not in layer.multilora_scaling
    x = torch.randn(4, D_IN)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_mixed_batch_applies_each_row_s_adapter() -> None:
    layer, x = make_layer(), torch.randn(4, 5, D_IN)
    layer.update_layer("other", r=3, num_loras=2, init_weights=False)
    names = ["other", "__base__", "default", "other"]
    y = layer(x, adapter_names=names)
    for i, name in enumerate(names):
        delta = 0 if name == "__base__" else layer.get_delta_weight(name)
        torch.testing.assert_close(y[i], layer.base_layer(x[i]) + (x[i] @ delta.T if name != "__base__" else 0))


def test_mixed_batch_refuses_what_it_cannot_do() -> None:
    layer, x = make_layer(), torch.randn(4, D_IN)
    with pytest.raises(InputError, match="got 3 names for 4 rows"):
        layer(x, adapter_names=["default"] * 3)
    layer.merge()
    with pytest.raises(InputError, match=r"merged \(\['default'\]\); call unmerge_adapter"):
        layer(x, adapter_names=["default"] * 4)


def test_constant_can_be_changed_and_reset() -> None:
    layer, x = make_layer(lora_alpha=3), torch.randn(4, D_IN)
    full = layer(x) - layer.base_layer(x)
    layer.scale_layer(0.5)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 0.5 * full)
    layer.unscale_layer(0.5)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), full)
    layer.set_scale("default", 2.0)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), 2 * full)
    layer.unscale_layer()
    torch.testing.assert_close(layer(x) - layer.base_layer(x), full)
    layer.set_scale("absent", 2.0)  # a layer may lack an adapter that others have


def test_trained_bias_gets_its_gradient() -> None:
    layer, x = make_layer(), torch.randn(4, D_IN)
    layer.base_layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.base_layer.bias.grad, torch.full((D_OUT,), 4.0))
    assert layer.base_layer.weight.grad is None


@pytest.mark.parametrize(
    ("module", "accepted"),
    [
        (nn.Linear(2, 3), True),
        (Conv1D(3, 2), True),
        (_Subclass(2, 3), True),
        (nn.Embedding(2, 3), False),
        (nn.Conv1d(2, 3, 1), False),
        (nn.LayerNorm(3), False),
        (nn.MultiheadAttention(4, 2).out_proj, False),
    ],
)
def test_can_adapt(module: nn.Module, accepted: bool) -> None:
    assert can_adapt(module) is accepted
