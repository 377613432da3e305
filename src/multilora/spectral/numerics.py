"""What merging in half precision loses, against fp32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MERGE_DTYPES = (torch.bfloat16, torch.float16)
_ROWS = 1024  # of a matrix at a time: the sums need no second copy of it


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
    error = energy = 0.0
    lost = changed = 0
    for begin in range(0, len(W), _ROWS):
        part = delta(begin, begin + _ROWS)
        rounded = W[begin : begin + _ROWS].to(dtype)
        exact = rounded.float() + part
        merged = exact.to(dtype)
        error += float((merged.float() - exact).double().square().sum())
        energy += float(part.double().square().sum())
        lost += int(((merged == rounded) & (part != 0)).sum())
        changed += int((part != 0).sum())
    if not math.isfinite(error):
        return {"error": None, "lost": lost / changed if changed else 0.0}
    return {
        "error": math.sqrt(error / energy) if energy else 0.0,
        "lost": lost / changed if changed else 0.0,
    }
