"""What every export does: the checks, and the writing of one layer at a time into a folder that appears whole.

A format (a module of `multilora.adapter.export`) adds how the pair is named and laid out, and who reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multilora.adapter.card import export_card
from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import AdapterFile, open_adapter
from multilora.errors import InputError
from multilora.storage.folders import new_folder
from multilora.storage.model_card import own_card, write_card
from multilora.storage.safetensors import all_finite, dtype_name, dtype_of, write_safetensors
from multilora.tuner.svd import truncated


@dataclass(frozen=True)
class LayerExport:
    """What became of one layer.

    Attributes:
        name: the layer's name in the base model.
        total_rank: n·r of the adapter.
        rank: how many of them were kept (before padding).
        relative_error: ‖ΔW − exported ΔW‖ / ‖ΔW‖ (Frobenius) by truncation; 0 where nothing was cut off.
    """

    name: str
    total_rank: int
    rank: int
    relative_error: float


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        out_dir: the folder of the exported adapter.
        base_model: the base model's name or path that the adapter gives.
        rank: the one rank of all layers, padding included.
        truncated_to: the rank asked for; None: the export is exact.
        dtype: of the stored tensors.
        size: bytes of the weights file.
        layers: each layer, blocks in numerical order.
        relative_error: of all layers' ΔW together.
        format: name of the format.
    """

    out_dir: Path
    base_model: str | None
    rank: int
    truncated_to: int | None
    dtype: torch.dtype
    size: int
    layers: tuple[LayerExport, ...]
    relative_error: float
    format: str = "peft"


@dataclass(frozen=True)
class Layout:
    """How a format stores one adapter.

    Attributes:
        config: content of `adapter_config.json`.
        base_model: for the report.
        rank: R, the one rank of all layers.
        tensors: (layer, lora_A (R, d_in), scaled_B (d_out, R)) to the stored tensors by name, without computing
            anything: it is called on the meta device too, for the shapes.
    """

    config: Mapping[str, Any]
    base_model: str | None
    rank: int
    tensors: Callable[[str, Tensor, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Format:
    """One form in which adapters are exported: all that differs between forms.

    Attributes:
        name: as it is asked for; the name of the format's module.
        title: what an export is, for readers.
        loader: the library that loads it.
        weights_file: name of the file of tensors.
        reads_base: the base model's configuration is read, and `base` says where it is.
        layout: (adapter, largest rank of a layer, stored dtype, base model or None) to how that adapter is stored.
        loading_lines: lines of Python that load an export.
        server_lines: (server, command or the reason that it takes none) for the servers that take an export.
    """

    name: str
    title: str
    loader: str
    weights_file: str
    reads_base: bool
    layout: Callable[[AdapterFile, int, torch.dtype, str | None], Layout]
    loading_lines: Callable[[ExportReport], tuple[str, ...]]
    server_lines: Callable[[ExportReport], tuple[tuple[str, str], ...]]


def export_as(
    form: Format,
    adapter_dir: str | Path,
    out_dir: str | Path,
    *,
    base: str | None = None,
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an adapter (MultiLoRA or plain LoRA) in a format. The folder appears complete or not at all.

    Args:
        form: the format.
        adapter_dir: folder of the adapter.
        out_dir: the folder to create.
        base: folder or hub id of the base model, for a format that reads it; None: as the adapter names it.
        rank: truncate each layer to its best approximation of this rank; None: exact.
        dtype: of the stored tensors; None: the adapter's own. Cast last.
        overwrite: replace the adapter of this format that `out_dir` holds.

    Raises:
        InputError: the adapter cannot be read or holds more than pairs; an option is out of range; `out_dir` is not
            empty, or is `adapter_dir`; a number does not fit into `dtype`.
    """
    if base is not None and not form.reads_base:
        raise InputError(f"base is not read for the format {form.name!r}; leave it out")
    out_dir = Path(out_dir)
    adapter, needed = _open(adapter_dir, out_dir, rank)
    stored = stored_dtype(dtype, adapter)
    layout = form.layout(adapter, needed, stored, base)
    return _write(adapter, out_dir, form, layout, rank=rank, dtype=stored, overwrite=overwrite)


def _open(adapter_dir: str | Path, out_dir: Path, rank: int | None) -> tuple[AdapterFile, int]:
    """The adapter, and the largest rank that one of its layers needs when all are truncated to `rank`.

    Raises:
        InputError: the adapter cannot be read or holds more than pairs; rank out of range; `out_dir` is `adapter_dir`.
    """
    adapter = open_adapter(adapter_dir)
    check_place(adapter, out_dir)
    refuse_other_tensors(adapter)
    total = max(layer.total_rank for layer in adapter.layers.values())
    _check_rank(rank, total)
    return adapter, rank or total


def _write(
    adapter: AdapterFile,
    out_dir: Path,
    form: Format,
    layout: Layout,
    *,
    rank: int | None,
    dtype: torch.dtype,
    overwrite: bool,
) -> ExportReport:
    """Write an adapter in a format's layout; memory holds one layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in adapter.layers.items():
        lora_A = torch.empty(layout.rank, layer.d_in, device="meta")
        scaled_B = torch.empty(layer.d_out, layout.rank, device="meta")
        shapes |= {key: tuple(tensor.shape) for key, tensor in layout.tensors(name, lora_A, scaled_B).items()}

    layers: list[LayerExport] = []
    energies: list[tuple[float, float]] = []  # of what was cut off, and of all, per layer

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, layer in adapter.layers.items():
            folded, error = adapter.folded(name), 0.0
            if rank is not None:
                folded, error, norm = truncated(folded, rank)
                energies.append((error * norm, norm))
            layers.append(LayerExport(name, layer.total_rank, folded.total_rank, error))
            lora_A = _stored(padded(folded.lora_A, (layout.rank, layer.d_in)), dtype, name)
            scaled_B = _stored(padded(folded.lora_B, (layer.d_out, layout.rank)), dtype, name)
            yield from layout.tensors(name, lora_A, scaled_B).items()

    replaceable = (CONFIG_FILE, form.weights_file, *own_card(out_dir))
    with new_folder(out_dir, overwrite=overwrite, replaceable=replaceable) as folder:
        write_safetensors(folder / form.weights_file, shapes, dtype, tensors())
        write_json(folder / CONFIG_FILE, layout.config)
        write_card(folder, export_card(adapter, form.title, form.loader, layout.rank, rank, dtype))
    cut, all_ = (math.hypot(*column) for column in zip(*energies, strict=True)) if energies else (0.0, 0.0)
    return ExportReport(
        out_dir=out_dir,
        base_model=layout.base_model,
        rank=layout.rank,
        truncated_to=rank,
        dtype=dtype,
        size=(out_dir / form.weights_file).stat().st_size,
        layers=tuple(layers),
        relative_error=cut / all_ if all_ else 0.0,
        format=form.name,
    )


# Tensors and files ------------------------------------------------------------------------------------------------


def padded(tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """The tensor with zeros appended up to `shape`."""
    result = tensor.new_zeros(shape)
    result[: tensor.shape[0], : tensor.shape[1]] = tensor
    return result


def stored_dtype(dtype: torch.dtype | str | None, adapter: AdapterFile) -> torch.dtype:
    """The dtype asked for; None: the adapter's own (of several, the one all promote to).

    Raises:
        InputError: none that tensors are stored in.
    """
    if dtype is None:
        first, *others = (layer.dtype for layer in adapter.layers.values())
        for other in others:
            first = torch.promote_types(first, other)
        return first
    return dtype_of(dtype)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration as people read it: indented, keys sorted."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _stored(tensor: Tensor, dtype: torch.dtype, layer: str) -> Tensor:
    cast = tensor.to(dtype)
    if not all_finite(cast):
        raise InputError(
            f"the adapter of layer {layer!r} does not fit into {dtype_name(dtype)}: its largest number is "
            f"{float(tensor.abs().max()):.3g}. Export with dtype bfloat16 or float32"
        )
    return cast


# Checks -----------------------------------------------------------------------------------------------------------


def check_place(adapter: AdapterFile, out_dir: Path) -> None:
    """`out_dir` is not the adapter's own folder; InputError if it is."""
    if out_dir.exists() and out_dir.samefile(adapter.folder):
        raise InputError(f"the output folder {str(out_dir)!r} is the adapter's own; name another")


def refuse_other_tensors(adapter: AdapterFile) -> None:
    """The adapter is LoRA pairs and nothing else; InputError that names the field if it is more."""
    config = adapter.adapter_config.config
    reasons = {
        f"modules_to_save={config.modules_to_save!r}: whole modules were trained": config.modules_to_save,
        f"bias={config.bias!r}: biases were trained": config.bias != "none",
        "trainable_token_indices: embeddings of tokens were trained": config.trainable_token_indices,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise InputError(
            f"{adapter.folder}: {found[0]}, which LoRA pairs alone cannot say, so the result would not be this "
            "adapter. Merge it into its base model instead, or train without that field"
        )


def _check_rank(rank: int | None, total: int) -> None:
    if rank is None:
        return
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"rank must be an integer of at least 1; got {rank!r}")
    if rank > total:
        raise InputError(
            f"rank={rank} is above the adapter's total rank {total}, so there is nothing to truncate; leave it out for "
            "the exact export"
        )
