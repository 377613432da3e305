"""Adapters into a base model's files, and whether the result computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multilora.base.weights import local_model
from multilora.merging.merge import merge_planned, prepare_merge
from multilora.merging.options import MergeOptions
from multilora.merging.report import MergeReport
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
    """Merge, and compare logits if asked to. Each adapter is opened once.

    Args:
        base: folder of the base model, or its id on the hub.
        adapters: folders of the adapters.
        out_dir: the folder to create.
        options: how they are merged.
        progress: receives the progress events.
        check: load the adapted and the merged model one after the other and compare their logits.

    Raises:
        InputError: as `merge_adapters` and `verify`.
    """
    if options.dtype is not None:
        dtype_of(options.dtype)
    folder = local_model(base, download=True, patterns=("*.safetensors", "*.index.json", *PATTERNS))
    if folder is None:
        raise AssertionError("a download returns a folder or raises")
    plan = prepare_merge(folder, adapters, out_dir, options)
    if check:
        check_verifiable([adapter for adapter, _ in plan.adapters])
    report = merge_planned(plan, out_dir, options, progress)
    if not check:
        return report, None
    return report, verify(folder, plan.adapters, out_dir, exact=set(report.dtypes) <= _EXACT)
