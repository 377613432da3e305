"""A base model and adapters to one model in the base model's own form, never more than a few blocks in memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multilora.base.weights import INDEX_FILE
from multilora.errors import InputError
from multilora.merging.blocks import block_workers, merge_shard
from multilora.merging.card import merge_card
from multilora.merging.files import os_errors_as_input_errors
from multilora.merging.folder import MergeFolder, complete_report, files_of_report
from multilora.merging.options import MergeOptions
from multilora.merging.plan import FORMAT, MergePlan, check_unchanged, plan_merge
from multilora.merging.report import MergeReport
from multilora.merging.side_files import copy_side_files, write_index
from multilora.storage.folders import check_output, output_place, restore_replaced
from multilora.storage.model_card import CARD_FILE, own_card, write_card
from multilora.storage.rounding import TensorRounding
from multilora.storage.safetensors import DTYPE_CODES, dtype_name
from multilora.terminal import Progress, Silent

_DTYPE_NAMES = {code: dtype_name(dtype) for dtype, code in DTYPE_CODES.items()}


def merge_adapters(
    base: str | Path,
    adapters: Sequence[str | Path],
    out_dir: str | Path,
    options: MergeOptions | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the base model with Σ w_k ΔW_k added to its weights, as a model that loads without this package.

    The sum is formed in fp32 (fp64 where a part is) and rounded once. The result has the base model's files; tensors
    that no adapter changes are copied. The folder appears complete or not at all: it is written aside, and after a
    kill the same call continues with the remaining files.

    Args:
        base: folder of the base model, with safetensors weights that are not quantised.
        adapters: folders of adapters, of MultiLoRA and of plain PEFT LoRA.
        out_dir: the folder to create.
        options: how they are merged.
        progress: receives the progress events.

    Raises:
        InputError: an input is missing, broken or does not belong to the others; `out_dir` is an input, inside of one,
            or not empty; it cannot be written, or the disk is full. Inputs stay as they are, and so does `out_dir`.
    """
    options = options or MergeOptions()
    return merge_planned(prepare_merge(base, adapters, out_dir, options), out_dir, options, progress)


def prepare_merge(
    base: str | Path, adapters: Sequence[str | Path], out_dir: str | Path, options: MergeOptions
) -> MergePlan:
    """The plan of `merge_adapters`, with its arguments; all inputs are opened and checked, and nothing is written.

    Raises:
        InputError: as `merge_adapters`, as far as the inputs are concerned.
    """
    folders = [Path(adapter) for adapter in adapters]
    _check_apart(Path(out_dir), [Path(base), *folders])
    return plan_merge(Path(base), folders, options)


def merge_planned(
    plan: MergePlan, out_dir: str | Path, options: MergeOptions, progress: Progress | None = None
) -> MergeReport:
    """Write what was planned, with the options that it was planned with. Errors as of `merge_adapters`."""
    out_dir, progress = Path(out_dir), progress or Silent()
    restore_replaced(out_dir.resolve())
    if not options.overwrite and (found := complete_report(out_dir.resolve(), plan.inputs)) is not None:
        return _report(plan, out_dir, options, _rounding_of(found), 0, 0.0, 0.0, complete_before=True)
    replaceable = {*files_of_report(out_dir), *own_card(out_dir)}
    place = output_place(out_dir, overwrite=options.overwrite, replaceable=replaceable)
    for note in plan.notes:
        progress.note(note)
    with MergeFolder(place, plan.inputs) as folder:
        done = {shard.name: folder.finished(shard.name, shard.size) for shard in plan.shards}
        left = sum(shard.size for shard in plan.shards if done[shard.name] is None)
        total = sum(shard.size for shard in plan.shards)
        _check_room(place.parent, left)
        if folder.is_resumed:
            progress.note(
                f"resumed where it was interrupted: {sum(d is not None for d in done.values())} of {len(done)} files "
                "are there"
            )
        progress.start(total, total - left)
        try:
            rounding, seconds, rounding_seconds = _merge_shards(plan, folder, done, options, progress)
        except InputError as error:
            kept = sum(folder.finished(shard.name, shard.size) is not None for shard in plan.shards)
            if not kept:
                raise
            raise InputError(
                f"{error}. {kept} of {len(plan.shards)} files are complete and are kept in {str(folder.path)!r}; the "
                "same command continues with the others"
            ) from error
        finally:
            progress.stop()
        check_unchanged(plan)
        with os_errors_as_input_errors(folder.path):
            _write_side_files(plan, folder.path)
            write_card(folder.path, merge_card(plan))
        check_output(out_dir, options.overwrite, replaceable)  # others may have written meanwhile
        folder.publish(_record(plan, options, rounding, folder.path))
    return _report(plan, out_dir, options, rounding, left, seconds, rounding_seconds, complete_before=False)


def _merge_shards(
    plan: MergePlan,
    folder: MergeFolder,
    done: Mapping[str, list[TensorRounding] | None],
    options: MergeOptions,
    progress: Progress,
) -> tuple[list[TensorRounding], float, float]:
    """The files that are left; what is known of rounding, and the seconds without measuring it and for measuring it."""
    rounding: list[TensorRounding] = []
    written = sum(shard.size for shard in plan.shards if done[shard.name] is not None)

    def advance(size: int) -> None:
        nonlocal written
        written += size
        progress.step(written)

    began = time.perf_counter()
    with block_workers(options.report) as workers:
        for shard in plan.shards:
            found = done[shard.name]
            if found is None:
                found = merge_shard(shard, folder.part(shard.name), workers, advance)
                folder.finish(shard.name, found)
            rounding += found
        share = workers.rounding_seconds / workers.seconds if workers.seconds else 0.0
    wall = time.perf_counter() - began
    return rounding, wall * (1 - share), wall * share


def _write_side_files(plan: MergePlan, folder: Path) -> None:
    base = plan.base.folder
    if (base / INDEX_FILE).is_file():
        places = {tensor.name: shard.name for shard in plan.shards for tensor in shard.tensors}
        sizes = {tensor.name: tensor.size for shard in plan.shards for tensor in shard.tensors}
        write_index(base, folder, places, sizes)
    copy_side_files(base, folder, plan.dtype, untied=plan.untied)


# Reports ----------------------------------------------------------------------------------------------------------


def _record(plan: MergePlan, options: MergeOptions, rounding: Sequence[TensorRounding], folder: Path) -> dict[str, Any]:
    """What `merge_report.json` says. Names only, no paths; no times, so that the same merge writes the same file."""
    return {
        "format": FORMAT,
        "base": plan.base.folder.resolve().name,
        "adapters": [
            {"name": adapter.folder.resolve().name, "method": adapter.adapter_config.method, "weight": weight}
            for adapter, weight in plan.adapters
        ],
        "dtype": None if plan.dtype is None else dtype_name(plan.dtype),
        "inputs": plan.inputs,
        "files": {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.name != CARD_FILE  # people may change it
        },
        "rounding": [asdict(entry) for entry in rounding] if options.report else None,
    }


def _rounding_of(record: Mapping[str, Any]) -> list[TensorRounding]:
    return [TensorRounding(**entry) for entry in record.get("rounding") or []]


def _report(
    plan: MergePlan,
    out_dir: Path,
    options: MergeOptions,
    rounding: Sequence[TensorRounding],
    written: int,
    seconds: float,
    rounding_seconds: float,
    *,
    complete_before: bool,
) -> MergeReport:
    tensors = [tensor for shard in plan.shards for tensor in shard.tensors]
    return MergeReport(
        out_dir=out_dir,
        shards=tuple(shard.name for shard in plan.shards),
        size=sum(shard.size for shard in plan.shards),
        written=written,
        adapted=sum(bool(tensor.addends) for tensor in tensors),
        copied=sum(tensor.is_copied for tensor in tensors),
        dtypes=tuple(sorted({_DTYPE_NAMES[tensor.code] for tensor in tensors if tensor.code in _DTYPE_NAMES})),
        rounding=tuple(rounding) if options.report else None,
        seconds=seconds,
        rounding_seconds=rounding_seconds,
        complete_before=complete_before,
        notes=plan.notes,
    )


# Checks -----------------------------------------------------------------------------------------------------------


def _check_apart(out_dir: Path, inputs: Sequence[Path]) -> None:
    """The output is no input, in none, and around none."""
    out = out_dir.resolve()
    for path in inputs:
        place = path.resolve()
        if out == place:
            raise InputError(f"the output folder {str(out_dir)!r} is an input of the merge; name another")
        if place in out.parents or out in place.parents:
            where = "inside of" if place in out.parents else "around"
            raise InputError(
                f"the output folder {str(out_dir)!r} is {where} the input {str(path)!r}; name a folder apart from it"
            )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the disk is too small: the result needs {needed / 1e9:.2f} GB more in {str(folder)!r}, and "
            f"{free / 1e9:.2f} GB are free. Make room, or name another place"
        )
