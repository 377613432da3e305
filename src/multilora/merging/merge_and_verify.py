"""`multilora merge`: adapters into a base model's files, and whether the result computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multilora.adapter.file import open_adapter
from multilora.base.weights import local_model
from multilora.merging.merge import merge_adapters
from multilora.merging.report import MergeOptions, MergeReport
from multilora.merging.side_files import PATTERNS
from multilora.merging.verify import Verification, check_verifiable, verify
from multilora.storage.safetensors import dtype_of
from multilora.terminal import Progress

_EXACT = {"float32", "float64"}


def merge(
    base: str,
    adapters: Sequence[Path],
    out_dir: Path,
    options: MergeOptions,
    progress: Progress,
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
