"""How adapters are merged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MergeOptions:
    """How adapters are merged.

    Attributes:
        weights: the factor of each adapter's ΔW; None: 1 for all.
        dtype: of all floating-point tensors in the result; None: each keeps its own. Rounded once, last.
        report: measure the error of rounding.
        untie: where an adapter changes only one of two tied weights, write both and have the configuration say so.
        ignore_base_names: merge adapters that name different base models, if their shapes fit.
        overwrite: replace the merged model that the output folder holds.
    """

    weights: tuple[float, ...] | None = None
    dtype: str | None = None
    report: bool = True
    untie: bool = False
    ignore_base_names: bool = False
    overwrite: bool = False
