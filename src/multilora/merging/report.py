"""What a merge wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multilora.storage.rounding import TensorRounding


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
        notes: for the user, as in `MergePlan`.
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
