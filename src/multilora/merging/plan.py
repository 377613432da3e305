"""The plan of a merge: every file to write, every tensor in it, and where its bytes come from. No numbers are read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE, AdapterFile, open_adapter
from multilora.base.weights import ModelWeights
from multilora.errors import InputError
from multilora.merging.changes import Addend, Changes, find_changes
from multilora.merging.notes import check_base_names, notes_of
from multilora.merging.options import MergeOptions
from multilora.storage.safetensors import DTYPE_CODES, StoredTensor, dtype_of, header_bytes, read_header

FORMAT = 1  # of what a merge leaves behind; an unfinished one of another format begins anew
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result.

    Attributes:
        name: in the result.
        source: what it starts from: the base model's tensor, or what takes its place.
        code: its dtype in the result, as the format writes it.
        addends: what is added.
        transposed: the weight is stored as (d_in, d_out).
    """

    name: str
    source: StoredTensor
    code: str
    addends: tuple[Addend, ...]
    transposed: bool

    @property
    def is_copied(self) -> bool:
        """The bytes stay as they are."""
        return not self.addends and self.code == self.source.code

    @property
    def rounds(self) -> bool:
        """The last step may round."""
        if self.is_copied:
            return False
        return bool(self.addends) or torch.promote_types(self.dtype, self.source_dtype) != self.dtype

    @property
    def dtype(self) -> torch.dtype:
        """In the result; of floating-point tensors alone."""
        return _DTYPES[self.code]

    @property
    def source_dtype(self) -> torch.dtype:
        """Of the source; of floating-point tensors alone."""
        return _DTYPES[self.source.code]

    @property
    def size(self) -> int:
        """Bytes in the result."""
        return self.source.size if self.is_copied else math.prod(self.source.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class PlannedShard:
    """One file of the result.

    Attributes:
        name: as in the base model.
        tensors: in the order of the base model's file.
        header: what the file begins with.
    """

    name: str
    tensors: tuple[PlannedTensor, ...]
    header: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + sum(tensor.size for tensor in self.tensors)


@dataclass(frozen=True)
class MergePlan:
    """All that is decided before anything is written.

    Attributes:
        base: the base model.
        adapters: with their weights.
        shards: the files to write.
        dtype: that all floating-point tensors become; None: each keeps its own.
        untied: weights that the base model ties are written apart.
        inputs: a digest of everything that the result depends on.
        stamps: size and time of change of every input file.
        notes: for the user.
    """

    base: ModelWeights
    adapters: tuple[tuple[AdapterFile, float], ...]
    shards: tuple[PlannedShard, ...]
    dtype: torch.dtype | None
    untied: bool
    inputs: str
    stamps: Mapping[Path, tuple[int, int]]
    notes: tuple[str, ...]


def plan_merge(base: Path, adapters: Sequence[Path], options: MergeOptions) -> MergePlan:
    """Read and check the headers of everything, and plan the result.

    Args:
        base: folder of the base model.
        adapters: folders of adapters, of MultiLoRA and of plain PEFT LoRA.
        options: how they are merged.

    Raises:
        InputError: a file is missing or broken, parts do not belong together, or an option is out of range.
    """
    dtype = dtype_of(options.dtype) if options.dtype is not None else None
    stamps = {file: _stamp(file) for folder in adapters for file in _adapter_files(folder)}
    opened = tuple(zip(map(open_adapter, adapters), _weights(options.weights, len(adapters)), strict=True))
    weights = ModelWeights(base)
    stamps |= {file: _stamp(file) for file in weights.files}
    if weights.config.get("quantization_config"):
        raise InputError(
            f"the base model {str(base)!r} is quantised (quantization_config in its config.json), and ΔW cannot be "
            "added to packed weights; name the model that it was quantised from"
        )
    check_base_names([adapter for adapter, _ in opened], options.ignore_base_names)
    tensors: dict[str, StoredTensor] = {}
    headers: dict[Path, tuple[list[str], Mapping[str, str]]] = {}
    texts: list[bytes] = []
    for file in weights.files:
        stored, metadata, text = read_header(file)
        if unlisted := sorted(stored.keys() - weights.places.keys()):
            raise InputError(
                f"{file} holds {unlisted[0]!r}{f' and {len(unlisted) - 1} more' if unlisted[1:] else ''}, which the "
                "model's index does not list; fetch the model's files again"
            )
        names = [name for name in stored if weights.places.get(name) == file]
        tensors |= {name: stored[name] for name in names}
        headers[file] = names, metadata
        texts.append(text)
    changes = find_changes(weights, tensors, opened, untie=options.untie)
    shards = tuple(
        _shard(file.name, names, metadata, tensors, changes, weights, dtype)
        for file, (names, metadata) in headers.items()
    )
    return MergePlan(
        weights, opened, shards, dtype, changes.untied, _digest(base, opened, options, stamps, texts), stamps,
        notes_of(weights, opened, changes),
    )  # fmt: skip


def check_unchanged(plan: MergePlan) -> None:
    """The inputs are the files that the plan was made from.

    Raises:
        InputError: one was changed or removed meanwhile.
    """
    for file, stamp in plan.stamps.items():
        try:
            same = _stamp(file) == stamp
        except OSError:
            same = False
        if not same:
            raise InputError(
                f"{file} changed while it was being merged, so the result would be of no use; the same command begins "
                "anew with what is there then"
            )


def _shard(
    file: str,
    names: Sequence[str],
    metadata: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    changes: Changes,
    base: ModelWeights,
    dtype: torch.dtype | None,
) -> PlannedShard:
    planned: list[PlannedTensor] = []
    for name in names:
        planned.append(_tensor(name, tensors[name], changes, base, dtype))
        # What was tied comes right behind the tensor that it was tied to.
        also = [more for more, stored in changes.more.items() if stored == tensors[name]]
        planned.extend(_tensor(more, tensors[name], changes, base, dtype) for more in also)
    header = header_bytes({t.name: (t.code, t.source.shape, t.size) for t in planned}, metadata or {"format": "pt"})
    return PlannedShard(file, tuple(planned), header)


def _tensor(
    name: str, stored: StoredTensor, changes: Changes, base: ModelWeights, dtype: torch.dtype | None
) -> PlannedTensor:
    code = DTYPE_CODES[dtype] if dtype is not None and stored.code in _DTYPES else stored.code
    addends = tuple(changes.addends.get(name, ()))
    transposed = bool(addends) and base.is_transposed(name.removesuffix(".weight"))
    return PlannedTensor(name, changes.replaced.get(name, stored), code, addends, transposed)


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if count == 0:
        raise InputError("no adapter is named; a merge takes one or more")
    if weights is None:
        return (1.0,) * count
    if len(weights) != count:
        raise InputError(f"weights has {len(weights)} numbers for {count} adapters; give one for each, in their order")
    if strange := [weight for weight in weights if not math.isfinite(weight)]:
        raise InputError(f"weights must be finite numbers; got {strange[0]}")
    return tuple(float(weight) for weight in weights)


# Inputs -----------------------------------------------------------------------------------------------------------


def _adapter_files(folder: Path) -> list[Path]:
    return [file for file in (folder / CONFIG_FILE, folder / WEIGHTS_FILE) if file.is_file()]


def _stamp(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns


def _digest(
    base: Path,
    adapters: Sequence[tuple[AdapterFile, float]],
    options: MergeOptions,
    stamps: Mapping[Path, tuple[int, int]],
    headers: Sequence[bytes],
) -> str:
    """Of the base model's files by size, time and header, of the adapters by content, and of the options."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "base": [[str(file.relative_to(base)), *stamp] for file, stamp in stamps.items() if file.is_relative_to(base)],
        "headers": [hashlib.sha256(text).hexdigest() for text in headers],
        "config": hashlib.sha256((base / "config.json").read_bytes()).hexdigest(),
        "adapters": [],
        "options": [options.dtype, options.report, options.untie],
    }
    for adapter, weight in adapters:
        digests: list[str] = []
        for file in _adapter_files(adapter.folder):
            with file.open("rb") as opened:
                digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
        facts["adapters"].append([weight, *digests])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
