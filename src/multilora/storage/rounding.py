"""What merging in half precision loses, against fp32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MERGE_DTYPES = (torch.bfloat16, torch.float16)
_ROWS = 1024  # of a matrix at a time: the sums need no second copy of it


@dataclass
class RoundingError:
    """The error of M = round(W + ΔW) against the sum before it is rounded, over blocks of a matrix.

    Attributes:
        largest: max |M − (W + ΔW)|.
        squared: ‖M − (W + ΔW)‖²_F.
        exact: ‖W + ΔW‖²_F.
        delta: ‖ΔW‖²_F.
        lost: entries with ΔW ≠ 0 where M is W.
        changed: entries with ΔW ≠ 0.
    """

    largest: float = 0.0
    squared: float = 0.0
    exact: float = 0.0
    delta: float = 0.0
    lost: int = 0
    changed: int = 0

    def add(self, base: Tensor, delta: Tensor | None, exact: Tensor, merged: Tensor, out: Tensor | None = None) -> None:
        """Take a block in.

        Args:
            base: W in the dtype of `merged`, (rows, columns), as the others.
            delta: ΔW in fp32 or fp64; None if there is no ΔW and M is W in another dtype.
            exact: W + ΔW in the dtype of ΔW.
            merged: M.
            out: scratch of the shape and dtype of `exact`.
        """
        difference = torch.sub(merged, exact) if out is None else out.copy_(merged).sub_(exact)
        least, most = (float(value) for value in difference.aminmax())
        self.largest = max(self.largest, -least, most)
        self.squared += _energy(difference)
        self.exact += _energy(exact)
        if delta is not None:
            still = int(delta.numel() - delta.count_nonzero())
            self.delta += _energy(delta)
            self.lost += int((merged == base).count_nonzero()) - still  # where ΔW is zero, M is W
            self.changed += delta.numel() - still

    def merge(self, other: RoundingError) -> None:
        """Take in what another one has seen."""
        self.largest = max(self.largest, other.largest)
        for name in ("squared", "exact", "delta", "lost", "changed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def relative(self) -> float:
        """‖M − (W + ΔW)‖_F / ‖W + ΔW‖_F, 0 for a sum of zero."""
        return math.sqrt(self.squared / self.exact) if self.exact else 0.0

    @property
    def relative_to_delta(self) -> float:
        """‖M − (W + ΔW)‖_F / ‖ΔW‖_F, 0 for ΔW = 0."""
        return math.sqrt(self.squared / self.delta) if self.delta else 0.0

    @property
    def lost_share(self) -> float:
        """Share of the entries with ΔW ≠ 0 that merging leaves as they were; 0 where there are none."""
        return self.lost / self.changed if self.changed else 0.0


def merge_error(W: Tensor, delta: Callable[[int, int], Tensor], dtype: torch.dtype) -> dict[str, float | None]:
    """The error of W + ΔW rounded to a dtype, for a base model that is stored in that dtype.

    With W° = round(W) and M = round(W° + ΔW), the sum taken in fp32 and rounded once as `merge` does:

    Args:
        W: (d_out, d_in).
        delta: gives rows [begin, end) of ΔW in fp32.
        dtype: that the merged weight has.

    Returns:
        error: ‖M − (W° + ΔW)‖_F / ‖ΔW‖_F, 0 for ΔW = 0; None where M overflows.
        lost: share of the entries with ΔW ≠ 0 that merging leaves as they were, M = W°; 0 where there are none.
    """
    found = RoundingError()
    for begin in range(0, len(W), _ROWS):
        part = delta(begin, begin + _ROWS)
        rounded = W[begin : begin + _ROWS].to(dtype)
        exact = rounded.float() + part
        found.add(rounded, part, exact, exact.to(dtype))
    finite = math.isfinite(found.squared)
    return {"error": found.relative_to_delta if finite else None, "lost": found.lost_share}


def _energy(block: Tensor) -> float:
    """‖block‖²_F: rows in fp32, which is fast and has few terms each, their sum in fp64."""
    return float(torch.linalg.vector_norm(block, dim=-1).double().square().sum())


@dataclass(frozen=True)
class TensorRounding:
    """The error of one tensor's last step, M = round(W + ΔW), against the sum in fp32.

    Attributes:
        name: the tensor's.
        largest: max |M − (W + ΔW)|.
        relative: ‖M − (W + ΔW)‖_F / ‖W + ΔW‖_F.
        relative_to_delta: ‖M − (W + ΔW)‖_F / ‖ΔW‖_F; None if no adapter changes it or ΔW = 0.
        lost: share of the entries with ΔW ≠ 0 that stayed as they were; None if no adapter changes it.
    """

    name: str
    largest: float
    relative: float
    relative_to_delta: float | None
    lost: float | None
