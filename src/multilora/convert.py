"""From MultiLoRA to plain PEFT LoRA and back, with the same ΔW.

`export_lora` writes the one pair of `functional.py` as a plain LoRA in the form that every server reads: the learned
scale and the constant folded into B, one rank for all layers, `lora_alpha` equal to it. `from_lora` takes a plain LoRA
apart into modules.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multilora.adapter_config import CONFIG_FILE
from multilora.checkpoint import PREFIX, WEIGHTS_FILE, AdapterFile, all_finite, open_adapter
from multilora.config import Scaling
from multilora.errors import InputError
from multilora.folders import new_folder
from multilora.portable import portable_config, portable_rank
from multilora.safetensors_writer import dtype_name, dtype_of, write_safetensors
from multilora.spectral.svd import truncated_pair

_ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)


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
    """What `export_lora` wrote.

    Attributes:
        out_dir: the folder of the plain LoRA.
        base_model: the base model's name or path as the adapter tells it.
        rank: `r` of the plain LoRA, padding included.
        truncated_to: the rank asked for; None: the export is exact.
        dtype: of the stored tensors.
        size: bytes of the weights file.
        layers: each layer, blocks in numerical order.
        relative_error: of all layers' ΔW together.
    """

    out_dir: Path
    base_model: str | None
    rank: int
    truncated_to: int | None
    dtype: torch.dtype
    size: int
    layers: tuple[LayerExport, ...]
    relative_error: float


def export_lora(
    adapter_dir: str | Path,
    out_dir: str | Path,
    *,
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an adapter as a plain PEFT LoRA, which loads where this package is not installed.

    The form is the portable one: B' folded in fp32, all layers padded with zeros to one rank R, a multiple of 16,
    `r = lora_alpha = R`, no patterns. A plain LoRA (rsLoRA, patterns) is brought into that form as well. The folder
    appears complete or not at all; memory holds one layer at a time.

    Args:
        adapter_dir: folder of the adapter.
        out_dir: the folder to create.
        rank: truncate each layer to its best approximation of this rank; None: exact. Layers of a smaller total rank
            stay exact, and R is still a multiple of 16.
        dtype: of the stored tensors: float32, bfloat16 or float16 (float64); None: the adapter's own. Cast last.
        overwrite: replace the adapter that `out_dir` holds.

    Raises:
        InputError: the adapter cannot be read or holds what a plain LoRA cannot say (modules_to_save, bias,
            trainable_token_indices); rank out of range; `out_dir` is not empty, or is `adapter_dir`.
    """
    adapter = open_adapter(adapter_dir)
    out_dir = Path(out_dir)
    _check_place(adapter, out_dir)
    _refuse_other_tensors(adapter)
    total = max(layer.total_rank for layer in adapter.layers.values())
    _check_rank(rank, total)
    stored = _dtype(dtype, adapter)
    R = portable_rank(rank or total)
    config = portable_config(adapter, R)
    shapes: dict[str, tuple[int, int]] = {}
    for name, layer in adapter.layers.items():
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (R, layer.d_in)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (layer.d_out, R)

    layers: list[LayerExport] = []
    energies: list[tuple[float, float]] = []  # of what was cut off, and of all, per layer

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, layer in adapter.layers.items():
            pair, error = adapter.folded_pair(name), 0.0
            if rank is not None:
                pair, error, norm = truncated_pair(*pair, rank)
                energies.append((error * norm, norm))
            lora_A, scaled_B = pair
            layers.append(LayerExport(name, layer.total_rank, len(lora_A), error))
            yield f"{PREFIX}{name}.lora_A.weight", _stored(_padded(lora_A, (R, layer.d_in)), stored, name)
            yield f"{PREFIX}{name}.lora_B.weight", _stored(_padded(scaled_B, (layer.d_out, R)), stored, name)

    with new_folder(out_dir, overwrite=overwrite, replaceable=_ADAPTER_FILES) as folder:
        write_safetensors(folder / WEIGHTS_FILE, shapes, stored, tensors())
        _write_json(folder / CONFIG_FILE, config)
    cut, all_ = (math.hypot(*column) for column in zip(*energies, strict=True)) if energies else (0.0, 0.0)
    return ExportReport(
        out_dir=out_dir,
        base_model=config["base_model_name_or_path"],
        rank=R,
        truncated_to=rank,
        dtype=stored,
        size=(out_dir / WEIGHTS_FILE).stat().st_size,
        layers=tuple(layers),
        relative_error=cut / all_ if all_ else 0.0,
    )


@dataclass(frozen=True)
class FromLoraReport:
    """What `from_lora` wrote.

    Attributes:
        out_dir: the folder of the MultiLoRA adapter.
        num_loras, r: of the new adapter (r: where its rank_pattern says nothing else).
        layers: number of adapted layers.
        padded: names of the layers whose rank had to be padded to a multiple of num_loras.
    """

    out_dir: Path
    num_loras: int
    r: int
    layers: int
    padded: tuple[str, ...]


def from_lora(
    adapter_dir: str | Path,
    num_loras: int,
    out_dir: str | Path,
    *,
    scaling: Scaling = "vector",
    seed: int = 0,
    overwrite: bool = False,
) -> FromLoraReport:
    """Write a plain PEFT LoRA as a MultiLoRA adapter with the same ΔW, ready to be trained on.

    The LoRA's rank is split into `num_loras` modules: r = rank / num_loras. Where that leaves a remainder the rank is
    padded to the next multiple, with a warning; the padding starts as LoRA does (A random, B zero), so that it does
    not change ΔW and still learns. The constant is folded into B and the learned scale is one. Stored in fp32, so that
    folding loses nothing.

    Args:
        adapter_dir: folder of a plain LoRA; rsLoRA, rank_pattern and alpha_pattern are taken into account.
        num_loras: number n of modules, at least 1.
        out_dir: the folder to create.
        scaling: the kind of learned scale, as in `MultiLoraConfig`.
        seed: of the padding's random A.
        overwrite: replace the adapter that `out_dir` holds.

    Raises:
        InputError: the adapter cannot be read, is not a plain LoRA (DoRA and other variants) or holds more than LoRA
            pairs; num_loras or scaling is out of range; `out_dir` is not empty, or is `adapter_dir`.
    """
    adapter = open_adapter(adapter_dir)
    out_dir = Path(out_dir)
    _check_place(adapter, out_dir)
    if adapter.adapter_config.method != "lora":
        raise InputError(f"{adapter.folder}: is a MultiLoRA adapter already; from_lora takes a plain LoRA")
    _refuse_other_tensors(adapter)
    source = adapter.adapter_config.config
    # Checked by the new configuration before it divides anything.
    n = dataclasses.replace(source, num_loras=num_loras, scaling=scaling, init_weights=True).num_loras
    config = dataclasses.replace(
        source,
        num_loras=n,
        scaling=scaling,
        init_weights=True,
        r=math.ceil(source.r / n),
        rank_pattern={pattern: math.ceil(r / n) for pattern, r in source.rank_pattern.items()},
        lora_alpha=None,
        alpha_pattern={},
        inference_mode=True,
        peft_version=None,
    )
    new_rank = {name: n * math.ceil(layer.r / n) for name, layer in adapter.layers.items()}
    padded = tuple(name for name, layer in adapter.layers.items() if new_rank[name] != layer.r)
    if padded:
        first = adapter.layers[padded[0]]
        warnings.warn(
            f"{len(padded)} layers have a rank that {n} modules cannot share equally ({first.name}: {first.r}); it is "
            f"padded to the next multiple ({new_rank[first.name]}), which leaves ΔW as it is",
            stacklevel=2,
        )
    stored = torch.promote_types(_dtype(None, adapter), torch.float32)
    scale_shape = {"vector": lambda d_out: (n, d_out), "scalar": lambda d_out: (n,), "none": None}[scaling]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in adapter.layers.items():
        shapes[f"{PREFIX}{name}.multilora_A"] = (new_rank[name], layer.d_in)
        shapes[f"{PREFIX}{name}.multilora_B"] = (layer.d_out, new_rank[name])
        if scale_shape is not None:
            shapes[f"{PREFIX}{name}.multilora_scaling"] = scale_shape(layer.d_out)
    generator = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, layer in adapter.layers.items():
            lora_A, folded_B = adapter.folded_pair(name)
            bound = 1 / math.sqrt(layer.d_in)
            more = torch.empty(new_rank[name] - layer.r, layer.d_in, dtype=lora_A.dtype)
            more.uniform_(-bound, bound, generator=generator)
            yield f"{PREFIX}{name}.multilora_A", torch.cat([lora_A, more]).to(stored)
            yield f"{PREFIX}{name}.multilora_B", _padded(folded_B, (layer.d_out, new_rank[name])).to(stored)
            if scale_shape is not None:
                yield f"{PREFIX}{name}.multilora_scaling", torch.ones(scale_shape(layer.d_out), dtype=stored)

    with new_folder(out_dir, overwrite=overwrite, replaceable=_ADAPTER_FILES) as folder:
        write_safetensors(folder / WEIGHTS_FILE, shapes, stored, tensors())
        _write_json(folder / CONFIG_FILE, config.to_dict())
    return FromLoraReport(out_dir, n, config.r, len(adapter.layers), padded)


# Tensors ----------------------------------------------------------------------------------------------------------


def _padded(tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    result = tensor.new_zeros(shape)
    result[: tensor.shape[0], : tensor.shape[1]] = tensor
    return result


def _stored(tensor: Tensor, dtype: torch.dtype, layer: str) -> Tensor:
    cast = tensor.to(dtype)
    if not all_finite(cast):
        raise InputError(
            f"the adapter of layer {layer!r} does not fit into {dtype_name(dtype)}: its largest number is "
            f"{float(tensor.abs().max()):.3g}. Export with dtype bfloat16 or float32"
        )
    return cast


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# Checks -----------------------------------------------------------------------------------------------------------


def _check_place(adapter: AdapterFile, out_dir: Path) -> None:
    if out_dir.exists() and out_dir.samefile(adapter.folder):
        raise InputError(f"the output folder {str(out_dir)!r} is the adapter's own; name another")


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


def _refuse_other_tensors(adapter: AdapterFile) -> None:
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


def _dtype(dtype: torch.dtype | str | None, adapter: AdapterFile) -> torch.dtype:
    if dtype is None:
        first, *others = (layer.dtype for layer in adapter.layers.values())
        for other in others:
            first = torch.promote_types(first, other)
        return first
    return dtype_of(dtype)
