"""Safetensors files in parts: written one tensor at a time, so that memory holds one; read without mapping the file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multilora.errors import InputError, nearest

DTYPE_CODES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that tensors are stored in, from itself or its name ("bfloat16").

    Raises:
        InputError: the dtype is not supported.
    """
    names = {dtype_name(known): known for known in DTYPE_CODES}
    found = names.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPE_CODES:
        near = nearest(dtype, names) if isinstance(dtype, str) else ""
        raise InputError(f"dtype must be one of {', '.join(names)}; got {dtype!r}{near}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` → "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def header_bytes(
    entries: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a safetensors file begins with; the tensors' bytes follow it without gaps, in the order of `entries`.

    Args:
        entries: name to (dtype code, shape, bytes).
        metadata: text by name; if None, `{"format": "pt"}`.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
    end = 0
    for name, (code, shape, size) in entries.items():
        begin, end = end, end + size
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map the file and want the data aligned
    return len(text).to_bytes(8, "little") + text


def write_safetensors(
    path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write `tensors`, all of `dtype`, in the order of `shapes`; the file is on the disk when this returns.

    Args:
        path: the file; replaced if it exists.
        shapes: name to shape, of all tensors.
        dtype: float64, float32, float16 or bfloat16.
        tensors: (name, tensor) in the order of `shapes`; each is written and let go.

    Raises:
        RuntimeError: `tensors` are not what `shapes` and `dtype` announced. The file is then incomplete.
    """
    code = DTYPE_CODES[dtype]
    entries = {name: (code, shape, math.prod(shape) * dtype.itemsize) for name, shape in shapes.items()}
    expected = iter(shapes.items())
    with path.open("wb") as file:
        file.write(header_bytes(entries))
        for name, tensor in tensors:
            announced = next(expected, ("nothing more", ()))
            if (name, tuple(tensor.shape), tensor.dtype) != (announced[0], tuple(announced[1]), dtype):
                raise RuntimeError(
                    f"{path}: announced {announced} in {dtype}, got {name!r} {tuple(tensor.shape)} in {tensor.dtype}"
                )
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        if missing := next(expected, None):
            raise RuntimeError(f"{path}: announced {missing[0]!r}, which did not come")
        file.flush()
        os.fsync(file.fileno())


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


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key by which block 10 comes after block 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor (not an empty one) has neither NaN nor infinity. One pass suffices: it checks the extremes."""
    return bool(torch.stack(tensor.aminmax()).isfinite().all())
