"""Where the tensors of a safetensors file lie, so that they can be read in parts, and without mapping the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file.

    Attributes:
        file: the safetensors file.
        name: the tensor's name in it.
        code: its dtype as the format writes it, such as BF16.
        shape: its shape.
        begin: offset of its first byte from the beginning of the file.
        size: bytes.
    """

    file: Path
    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    size: int


def read_header(file: Path) -> tuple[dict[str, StoredTensor], Mapping[str, str], bytes]:
    """The tensors of a file in the order of their bytes, its metadata, and the header as it is.

    The file is one that safetensors opened before, which checks the header against the file's length.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length)
    entries: dict[str, Any] = json.loads(text)
    metadata: Mapping[str, str] = entries.pop("__metadata__", None) or {}
    start = 8 + length
    tensors = [
        StoredTensor(file, name, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
        for name, entry in entries.items()
        for begin, end in [entry["data_offsets"]]
    ]
    return {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.begin)}, metadata, text
