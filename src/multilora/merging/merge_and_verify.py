"""`multilora merge`: adapters into a base model's files, and whether the result computes the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multilora.adapter.file import open_adapter
from multilora.base.weights import local_model
from multilora.errors import InputError
from multilora.merging.merge import merge_adapters
from multilora.merging.report import MergeOptions, MergeProgress, MergeReport
from multilora.merging.side_files import PATTERNS
from multilora.merging.verify import Verification, check_verifiable, verify
from multilora.storage.rounding import TensorRounding
from multilora.storage.safetensors import dtype_of, natural_order

_EXACT = {"float32", "float64"}


@dataclass(frozen=True)
class KindRounding:
    """The error of rounding of all tensors of a kind, such as every block's q_proj.

    Attributes:
        kind: their name with the blocks' numbers as `*`.
        count: how many they are.
        largest: max |M − (W + ΔW)| of all.
        relative: the worst tensor's ‖M − (W + ΔW)‖_F / ‖W + ΔW‖_F.
        relative_to_delta: the worst tensor's ‖M − (W + ΔW)‖_F / ‖ΔW‖_F; None: no adapter changes them.
        lost: the worst tensor's share of entries that ΔW did not change; None: as above.
    """

    kind: str
    count: int
    largest: float
    relative: float
    relative_to_delta: float | None
    lost: float | None


def merge(
    base: str,
    adapters: Sequence[Path],
    out_dir: Path,
    options: MergeOptions,
    progress: MergeProgress,
    *,
    check: bool = False,
) -> tuple[MergeReport, Verification | None]:
    """Merge, and compare logits if asked to.

    Args:
        base: folder of the base model, or its id on the hub.
        adapters: folders of the adapters.
        out_dir: the folder to create.
        options: how they are merged.
        progress: is told how it goes.
        check: load the adapted and the merged model one after the other and compare their logits.

    Raises:
        InputError: as `merge_adapters` and `verify`.
    """
    if options.dtype is not None:
        dtype_of(options.dtype)
    folder = local_model(base, download=True, patterns=("*.safetensors", "*.index.json", *PATTERNS))
    if folder is None:
        raise AssertionError("a download returns a folder or raises")
    if check:
        check_verifiable([open_adapter(adapter) for adapter in adapters])
    report = merge_adapters(folder, adapters, out_dir, options, progress)
    if not check:
        return report, None
    weights = options.weights or (1.0,) * len(adapters)
    opened = [(open_adapter(adapter), weight) for adapter, weight in zip(adapters, weights, strict=True)]
    return report, verify(folder, opened, out_dir, exact=set(report.dtypes) <= _EXACT)


def weights_of(text: str | None) -> tuple[float, ...] | None:
    """ "0.7,0.3" → (0.7, 0.3).

    Raises:
        InputError: a part is no number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--weights {text!r}: give one number per adapter, with commas: 0.7,0.3") from error


def rounding_by_kind(rounding: Sequence[TensorRounding]) -> list[KindRounding]:
    """The tensors by kind, in the order of the first of each by name."""
    kinds: dict[str, list[TensorRounding]] = {}
    for entry in sorted(rounding, key=lambda entry: natural_order(entry.name)):
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", entry.name.removesuffix(".weight")), []).append(entry)
    return [
        KindRounding(
            kind,
            len(entries),
            max(entry.largest for entry in entries),
            max(entry.relative for entry in entries),
            _worst([entry.relative_to_delta for entry in entries]),
            _worst([entry.lost for entry in entries]),
        )
        for kind, entries in kinds.items()
    ]


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
