"""What an analysis has computed already, in its output folder: JSON and safetensors, by the hash of what led to it.

A cache folder may be deleted at any time; files that cannot be read are computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from multilora.storage.folders import sync, write_text

_VERSION = 1  # of the content: raised whenever a measure changes its meaning


class Cache:
    """Records (JSON) and tensors (safetensors) by key. Files appear complete or not at all.

    Args:
        folder: created when the first is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record stored under a key."""
        try:
            found: Any = json.loads(self._file(key, "json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return cast(dict[str, Any], found) if isinstance(found, dict) else None

    def store_record(self, key: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Keep a record of plain data."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._file(key, "json"), json.dumps(record, allow_nan=False))

    def tensors(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors stored under a key."""
        try:
            return load_file(self._file(key, "safetensors"))
        except (OSError, SafetensorError):
            return None

    def store_tensors(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors by name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(key, "safetensors")
        aside = file.with_name(f".{file.name}.incomplete")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
        sync(aside)
        aside.replace(file)

    def _file(self, key: Mapping[str, Any], suffix: str) -> Path:
        text = json.dumps({"version": _VERSION, **key}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.{suffix}"


def hash_files(files: Sequence[Path]) -> str:
    """One hash of the content of files, in their order."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()
