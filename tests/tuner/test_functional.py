"""Laws of the fused function: equal to the plain loop over the n modules, and lean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from effort import examples
from multilora.tuner.factors import Factors, ScalingFunction
from multilora.tuner.functional import multilora_linear, multilora_low_rank

KINDS = ("none", "scalar", "vector")


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    scaling: Tensor | None,
    alpha_over_r: float,
    function: ScalingFunction = "linear",
    constant: float = 1.0,
) -> Tensor:
    return multilora_linear(x, weight, bias, Factors(lora_A, lora_B, scaling, alpha_over_r, function, constant))


def factors_of(t: dict[str, Any], alpha_over_r: float) -> Factors:
    return Factors(t["lora_A"], t["lora_B"], t["scaling"], alpha_over_r)


def plain_loop(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    A: Tensor,
    B: Tensor,
    s: Tensor | None,
    alpha_over_r: float,
    n: int,
    function: ScalingFunction = "linear",
    constant: float = 1.0,
) -> Tensor:
    """The formula as it is written: y = W x + b + Σ f(c·s_i) ⊙ (lora_alpha / r) B_i A_i x."""
    f = {"linear": lambda v: v, "tanh": torch.tanh}[function]
    y = x @ W.T + (0 if b is None else b)
    for A_i, B_i, s_i in zip(A.chunk(n), B.chunk(n, dim=1), [None] * n if s is None else s, strict=True):
        y = y + (1.0 if s_i is None else f(constant * s_i)) * ((x @ A_i.T) @ B_i.T) * alpha_over_r
    return y


def tensors(
    kind: str = "vector",
    n: int = 3,
    r: int = 2,
    d_in: int = 7,
    d_out: int = 5,
    shape: tuple[int, ...] = (2, 3),
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    scaling = {"none": None, "scalar": (n,), "vector": (n, d_out)}[kind]
    return {
        "x": rand(*shape, d_in),
        "weight": rand(d_out, d_in).detach(),
        "bias": rand(d_out) if bias else None,
        "lora_A": rand(n * r, d_in),
        "lora_B": rand(d_out, n * r),
        "scaling": None if scaling is None else rand(*scaling),
    }


def gradients(y: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
    wanted = {name: t for name, t in inputs.items() if t is not None and t.requires_grad}
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    return dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), upstream), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("alpha_over_r", "function", "constant"),
    [(1.0, "linear", 1.0), (0.7, "linear", 1.0), (1.0, "linear", 3.0), (1.0, "tanh", 1.0), (0.7, "tanh", 2.0)],
)
def test_fused_equals_plain_loop_in_values_and_gradients(
    kind: str, n: int, bias: bool, alpha_over_r: float, function: ScalingFunction, constant: float
) -> None:
    t = tensors(kind, n, bias=bias)
    y = fused(**t, alpha_over_r=alpha_over_r, function=function, constant=constant)
    expected = plain_loop(*t.values(), alpha_over_r, n, function, constant)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = gradients(y, t), gradients(expected, t)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


@settings(deadline=None, max_examples=examples(60))
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 5),
    r=st.integers(1, 4),
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    bias=st.booleans(),
    alpha_over_r=st.floats(0.1, 4),
    function=st.sampled_from(["linear", "tanh"]),
    constant=st.floats(0.1, 4),
)
def test_fused_equals_plain_loop_for_any_shape(
    kind: str,
    n: int,
    r: int,
    d_in: int,
    d_out: int,
    shape: tuple[int, ...],
    bias: bool,
    alpha_over_r: float,
    function: ScalingFunction,
    constant: float,
) -> None:
    t = tensors(kind, n, r, d_in, d_out, shape, bias)
    y = fused(**t, alpha_over_r=alpha_over_r, function=function, constant=constant)
    expected = plain_loop(*t.values(), alpha_over_r, n, function, constant)
    assert y.shape == (*shape, d_out)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = gradients(y, t), gradients(expected, t)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_low_rank_part_is_the_difference_to_the_base(kind: str) -> None:
    t = tensors(kind)
    low = multilora_low_rank(t["x"], factors_of(t, 0.7))
    base = torch.nn.functional.linear(t["x"], t["weight"], t["bias"])
    torch.testing.assert_close(base + low, fused(**t, alpha_over_r=0.7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_delta_weight_is_what_the_function_adds(kind: str) -> None:
    t = tensors(kind)
    delta = factors_of(t, 0.7).delta()
    low = multilora_low_rank(t["x"], factors_of(t, 0.7))
    torch.testing.assert_close(t["x"] @ delta.T, low, rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck() -> None:
    t = tensors("vector", shape=(4,))
    assert torch.autograd.gradcheck(lambda *a: fused(a[0], t["weight"], *a[1:], 0.7), [
        t["x"], t["bias"], t["lora_A"], t["lora_B"], t["scaling"]
    ])  # fmt: skip


def test_second_derivative_is_refused() -> None:
    t = tensors("vector")
    loss = fused(**t, alpha_over_r=1.0).square().sum()
    (grad,) = torch.autograd.grad(loss, t["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_input_with_fp32_parameters(dtype: torch.dtype, kind: str) -> None:
    t = tensors(kind, d_in=32, d_out=24, shape=(16,), dtype=torch.float32)
    t |= {name: t[name].detach().to(dtype) for name in ("x", "weight")}
    t["bias"] = None
    exact = plain_loop(*(None if v is None else v.double() for v in t.values()), 0.5, 3)
    y = fused(**t, alpha_over_r=0.5)
    assert y.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * exact.abs().max().item()
    assert (y.double() - exact).abs().max() < tolerance
    grads = gradients(y, t)
    assert {name: g.dtype for name, g in grads.items()} == dict.fromkeys(grads, torch.float32)
    reference = gradients(exact, t)
    for name, g in grads.items():
        assert (g - reference[name]).abs().max() < 8 * torch.finfo(dtype).eps * reference[name].abs().max() * 4


def test_scale_gradient_is_summed_in_fp32_beside_half_precision_factors() -> None:
    t = tensors("vector", r=64, d_in=32, d_out=8, shape=(32,), dtype=torch.float32)
    for name in ("x", "weight", "bias", "lora_A", "lora_B"):
        t[name] = t[name].detach().bfloat16().requires_grad_(name == "lora_B")
    grads = gradients(fused(**t, alpha_over_r=1.0), t)
    assert grads["scaling"].dtype == torch.float32
    assert grads["lora_B"].dtype == torch.bfloat16
    # Summed in bf16, nearly no entry would need more than bf16's 8 significant bits.
    assert (grads["scaling"] != grads["scaling"].bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_and_returns_the_autocast_dtype(kind: str) -> None:
    t = tensors(kind, d_in=32, d_out=24, shape=(16,), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fused(**t, alpha_over_r=1.0)
        expected = plain_loop(*t.values(), 1.0, 3)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected.float(), rtol=0.05, atol=0.3)
    assert all(g.dtype == torch.float32 for g in gradients(y, t).values())


@pytest.mark.parametrize("kind", KINDS)
def test_non_contiguous_input_and_gradient(kind: str) -> None:
    t = tensors(kind, shape=(3, 4))
    wide = torch.randn(4, 3, 14, dtype=torch.float64)
    t["x"] = wide.transpose(0, 1)[..., ::2].requires_grad_()
    y = fused(**t, alpha_over_r=1.0)
    torch.testing.assert_close(y, plain_loop(*t.values(), 1.0, 3))
    (expanded,) = torch.autograd.grad(y.sum(), t["x"])  # its upstream gradient has stride 0
    torch.testing.assert_close(expanded, torch.autograd.grad(plain_loop(*t.values(), 1.0, 3).sum(), t["x"])[0])


# What is kept for backward ----------------------------------------------------------------------------------------


def kept_for_backward(t: dict[str, Any]) -> tuple[int, Tensor]:
    """Bytes of the distinct storages that autograd keeps and that are no parameters, and the output."""
    parameters = {v.untyped_storage().data_ptr() for k, v in t.items() if v is not None and k != "x"}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = fused(**t, alpha_over_r=0.5)
    return sum(kept.values()), y


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_bytes_are_x_and_the_projections(n: int, kind: str) -> None:
    tokens, d_in, r = 96, 64, 4
    t = tensors(kind, n, r, d_in, 80, (tokens,), bias=False, dtype=torch.float32)
    kept, y = kept_for_backward(t)
    assert kept == 4 * (tokens * d_in + tokens * n * r)
    # Nothing hides on the autograd node either.
    node: Any = y.grad_fn
    assert not [v for v in vars(node).values() if isinstance(v, Tensor)]


class CountProducts(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("wanted", "keeps_x", "keeps_h", "products"),
    [
        (("x",), False, False, 3),  # g W, g B', (g B') A
        (("lora_A",), True, False, 2),  # g B', (g B')ᵀ x
        (("lora_B",), False, True, 1),  # gᵀ h
        (("scaling",), False, True, 1),  # gᵀ h
        (("bias",), False, False, 0),
        (("x", "bias", "lora_A", "lora_B", "scaling"), True, True, 5),
        (("weight",), True, False, 1),  # gᵀ x
    ],
)
def test_only_what_was_asked_for_is_kept_and_computed(
    wanted: tuple[str, ...], keeps_x: bool, keeps_h: bool, products: int
) -> None:
    t = {name: tensor.detach().requires_grad_(name in wanted) for name, tensor in tensors("vector").items()}
    kept, y = kept_for_backward(t)
    tokens = 2 * 3
    assert kept == 8 * tokens * (keeps_x * t["x"].shape[-1] + keeps_h * t["lora_A"].shape[0])
    with CountProducts() as count:
        grads = torch.autograd.grad(y, [t[name] for name in wanted], torch.ones_like(y))
    assert len(grads) == len(wanted)
    assert count.products == products


def test_no_graph_without_gradients() -> None:
    t = {name: tensor.detach() for name, tensor in tensors("vector").items()}
    assert fused(**t, alpha_over_r=1.0).grad_fn is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_nothing(reentrant: bool) -> None:
    t = tensors("vector")
    names = list(t)

    def run(*values: Tensor) -> Tensor:
        return fused(**dict(zip(names, values, strict=True)), alpha_over_r=0.5).sin()

    plain = gradients(run(*t.values()), t)
    saved = gradients_by_backward(checkpoint(run, *t.values(), use_reentrant=reentrant), t)
    for name in plain:
        assert torch.equal(plain[name], saved[name])


def gradients_by_backward(y: Tensor, t: dict[str, Any]) -> dict[str, Tensor]:
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    y.backward(upstream)
    return {name: v.grad for name, v in t.items() if v is not None and v.requires_grad}


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
def test_gradients_of_fp32_parameters_are_rounded_in_the_products_alone(scaling: str) -> None:
    """Whatever follows ∂B' = gᵀ h is in fp32, though the computation is in bf16."""
    t = {name: None if v is None else v.detach().float() for name, v in tensors(scaling).items()}
    t["x"], t["weight"] = t["x"].bfloat16(), t["weight"].bfloat16()
    t["bias"] = None
    trained = [t[name].requires_grad_() for name in ("lora_B", "scaling") if t[name] is not None]

    def of(alpha_over_r: float) -> tuple[Tensor, ...]:
        y = fused(**t, alpha_over_r=alpha_over_r)
        return torch.autograd.grad(y, trained, torch.ones_like(y))

    for one, many in zip(of(1.0), of(0.3), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(many, one * 0.3, rtol=1e-6, atol=0)


def test_compiles_without_a_graph_break() -> None:
    t = tensors("vector", dtype=torch.float32)

    def run(x: Tensor) -> Tensor:
        return fused(x, *list(t.values())[1:], 0.5).sin()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(t["x"]).sum(), t["x"])
    (eager,) = torch.autograd.grad(run(t["x"]).sum(), t["x"])
    torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
@pytest.mark.parametrize("compiled", [False, True])
def test_result_may_be_changed_in_place(shape: tuple[int, ...], compiled: bool) -> None:
    """As a model's `hidden += residual` or `ReLU(inplace=True)` does."""
    t = tensors("vector", shape=shape, dtype=torch.float32)
    names = list(t)

    def run(*values: Tensor) -> Tensor:
        y = fused(**dict(zip(names, values, strict=True)), alpha_over_r=0.5)
        y += 1
        y[..., :2].mul_(3)
        return y.relu_()

    def reference(*values: Tensor) -> Tensor:
        y = fused(**dict(zip(names, values, strict=True)), alpha_over_r=0.5) + 1
        return torch.cat([3 * y[..., :2], y[..., 2:]], -1).relu()

    function = torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run
    ours, theirs = gradients(function(*t.values()), t), gradients(reference(*t.values()), t)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name])
    low = multilora_low_rank(t["x"], factors_of(t, 0.5))
    low.mul_(2).sum().backward()


# Wrong shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 6)}, r"x must be \(…, d_in\) with d_in = 7 .* got \(2, 6\)"),
        ({"x": ()}, r"x must be .* got \(\)"),
        ({"weight": (5, 6)}, r"weight \(5, 6\)"),
        ({"bias": (4,)}, r"bias \(4,\)"),
        ({"lora_A": (5, 7)}, r"lora_A \(5, 7\), lora_B \(5, 6\)"),
        ({"lora_B": (5, 6, 1)}, r"lora_B \(5, 6, 1\)"),
        ({"scaling": (4, 5)}, r"scaling \(4, 5\)"),
        ({"scaling": (3, 6)}, r"scaling \(3, 6\)"),
        ({"scaling": (0,)}, r"scaling \(0,\)"),
    ],
)
def test_wrong_shapes_are_printed(change: dict[str, tuple[int, ...]], message: str) -> None:
    t = tensors("vector") | {name: torch.zeros(shape, dtype=torch.float64) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        fused(**t, alpha_over_r=1.0)
