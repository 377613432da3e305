"""The adapter of one linear layer as a type: its factors, and what follows from them (B', ΔW, rows of ΔW).

Letters in shapes: n modules, r rank of one module, d_in and d_out the layer's features. The equation is in
`functional.py`; B' and ΔW are computed here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

ScalingFunction = Literal["linear", "tanh"]


def effective_scaling(scaling: Tensor | None, function: ScalingFunction, constant: float) -> Tensor | None:
    """f(c·s), by which a module's B is multiplied: the learned scale through its function. In the shape of `scaling`.

    Args:
        scaling: (n,) or (n, d_out), the learned scale s; None, and so is the result, without one.
        function: f: "linear" is the paper's, f(x) = x; "tanh" stays within −1 and 1.
        constant: c.
    """
    if scaling is None:
        return None
    scaled = scaling if constant == 1.0 else scaling * constant
    return torch.tanh(scaled) if function == "tanh" else scaled


def scaled_lora_B(lora_B: Tensor, scaling: Tensor | None, alpha_over_r: float) -> Tensor:
    """B', the second half of the one pair: every module's B times its scale and the constant `lora_alpha / r`.

    Args:
        lora_B: (d_out, n·r), the n matrices B_i side by side.
        scaling: the effective scale f(c·s), (n,) one scalar per module or (n, d_out) one vector per module; None: one.
        alpha_over_r: the constant `lora_alpha / r`.

    Returns:
        (d_out, n·r) in the dtype that `lora_B` and `scaling` promote to.
    """
    if scaling is None:
        return lora_B if alpha_over_r == 1.0 else lora_B * alpha_over_r
    n, d_out = scaling.shape[0], lora_B.shape[0]
    factor = scaling if alpha_over_r == 1.0 else scaling * alpha_over_r
    factor = factor.view(1, n, 1) if scaling.dim() == 1 else factor.t().unsqueeze(-1)  # (1 or d_out, n, 1)
    return (lora_B.view(d_out, n, -1) * factor).view(d_out, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What an adapter holds for one linear layer: ΔW = B' A, B' = lora_alpha / r · [f(c·s_1) ⊙ B_1 … f(c·s_n) ⊙ B_n].

    The tensors are those that were passed, not copies. Equal by identity.

    Attributes:
        lora_A: (n·r, d_in), the n matrices A_i stacked.
        lora_B: (d_out, n·r), the n matrices B_i side by side.
        scaling: (n,), (n, d_out) or None: the learned scale of each module.
        alpha_over_r: the constant `lora_alpha / r`.
        scaling_function, scaling_constant: f and c, see `effective_scaling`; no effect without a learned scale.

    Raises:
        ValueError: shapes that do not fit each other; the message prints them all.
    """

    lora_A: Tensor
    lora_B: Tensor
    scaling: Tensor | None = None
    alpha_over_r: float = 1.0
    scaling_function: ScalingFunction = "linear"
    scaling_constant: float = 1.0

    def __post_init__(self) -> None:
        A, B, s = self.lora_A, self.lora_B, self.scaling
        good = A.dim() == 2 and B.dim() == 2 and A.shape[0] == B.shape[1]
        if good and s is not None:
            good = s.dim() in (1, 2) and s.shape[0] > 0 and A.shape[0] % s.shape[0] == 0
            good = good and (s.dim() == 1 or s.shape[1] == B.shape[0])
        if not good:
            raise ValueError(
                "lora_A must be (n·r, d_in), lora_B (d_out, n·r) and scaling (n,), (n, d_out) or None; got lora_A "
                f"{tuple(A.shape)}, lora_B {tuple(B.shape)}, scaling {None if s is None else tuple(s.shape)}"
            )

    @property
    def total_rank(self) -> int:
        """n·r, the rank of the one pair."""
        return self.lora_A.shape[0]

    @property
    def num_loras(self) -> int:
        """n, by the learned scale. Without one the n modules are one module of rank n·r: 1."""
        return 1 if self.scaling is None else self.scaling.shape[0]

    @property
    def d_in(self) -> int:
        return self.lora_A.shape[1]

    @property
    def d_out(self) -> int:
        return self.lora_B.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """What lora_A and lora_B promote to."""
        return torch.promote_types(self.lora_A.dtype, self.lora_B.dtype)

    def to(self, dtype: torch.dtype) -> Factors:
        """The factors in that dtype; tensors that have it already are not copied."""
        scaling = None if self.scaling is None else self.scaling.to(dtype)
        return replace(self, lora_A=self.lora_A.to(dtype), lora_B=self.lora_B.to(dtype), scaling=scaling)

    def effective_scaling(self) -> Tensor | None:
        """f(c·s), by which each module's B is multiplied: (n,) or (n, d_out). None without a learned scale."""
        return effective_scaling(self.scaling, self.scaling_function, self.scaling_constant)

    def scaled_B(self) -> Tensor:
        """B', (d_out, n·r), in the dtype that lora_B and scaling promote to."""
        return scaled_lora_B(self.lora_B, self.effective_scaling(), self.alpha_over_r)

    def folded(self, dtype: torch.dtype | None = None) -> Factors:
        """The one pair: (A, B') without scale and constant, with the same ΔW.

        Args:
            dtype: in which B' is computed and both are returned; None: the factors' own, at least fp32.
        """
        exact = self.to(torch.promote_types(self.dtype, torch.float32) if dtype is None else dtype)
        return Factors(exact.lora_A, exact.scaled_B())

    def delta(self) -> Tensor:
        """ΔW = B' A, (d_out, d_in), what an adapter adds to W, in the factors' dtype, at least fp32."""
        one = self.folded()
        return one.lora_B @ one.lora_A

    def delta_rows(self, begin: int, end: int, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
        """Rows [begin, end) of ΔW, so that a whole ΔW need not be in memory. Fold before asking more than once.

        Args:
            begin, end: rows.
            transposed: rows of ΔWᵀ instead, for a weight that is stored as (d_in, d_out).
            out: takes the result; in the factors' dtype, at least fp32.
        """
        one = self.folded()
        left, right = (one.lora_A.t(), one.lora_B.t()) if transposed else (one.lora_B, one.lora_A)
        return torch.mm(left[begin:end], right, out=out)  # pyright: ignore[reportCallIssue, reportArgumentType] - None is as good as no `out`
