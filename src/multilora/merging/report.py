"""What a merge is asked for, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multilora.storage.rounding import TensorRounding


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


@dataclass(frozen=True)
class MergeReport:
    """What `merge_adapters` wrote.

    Attributes:
        out_dir: the merged model.
        shards: its safetensors files.
        size: their bytes.
        written: bytes of the shards that this run wrote; the others were there.
        adapted: how many tensors adapters changed.
        copied: how many were copied as they are.
        dtypes: what the result's floating-point tensors are stored in, by name.
        rounding: by tensor, in the order of the files; None: not asked for.
        seconds: of the work on the tensors, until they are on the disk, without measuring the error.
        rounding_seconds: of measuring the error.
        complete_before: the same merge was there already, and nothing was written.
        notes: what the user has to know besides.
    """

    out_dir: Path
    shards: tuple[str, ...]
    size: int
    written: int
    adapted: int
    copied: int
    dtypes: tuple[str, ...]
    rounding: tuple[TensorRounding, ...] | None
    seconds: float
    rounding_seconds: float
    complete_before: bool
    notes: tuple[str, ...]
