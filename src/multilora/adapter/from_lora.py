"""A plain PEFT LoRA taken apart into modules: a MultiLoRA adapter with the same ΔW."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.exporting import (
    check_place,
    padded,
    refuse_other_tensors,
    stored_dtype,
    write_json,
)
from multilora.adapter.file import PREFIX, WEIGHTS_FILE, open_adapter
from multilora.errors import InputError
from multilora.storage.folders import new_folder
from multilora.storage.model_card import own_card, write_card
from multilora.storage.safetensors import write_safetensors
from multilora.tuner.card import adapter_card
from multilora.tuner.config import Scaling


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
    out_dir: str | Path,
    num_loras: int,
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
        out_dir: the folder to create.
        num_loras: number n of modules, at least 1.
        scaling: the kind of learned scale, as in `MultiLoraConfig`.
        seed: of the padding's random A.
        overwrite: replace the adapter that `out_dir` holds.

    Raises:
        InputError: the adapter cannot be read, is not a plain LoRA (DoRA and other variants) or holds more than LoRA
            pairs; num_loras or scaling is out of range; `out_dir` is not empty, or is `adapter_dir`; the order of
            arguments is the old one, with num_loras second.
    """
    if isinstance(out_dir, int):  # pyright: ignore[reportUnnecessaryIsInstance] - callers of the old order
        raise InputError(
            f"from_lora takes the folder to create second, as export_lora does: from_lora({str(adapter_dir)!r}, "
            f"{str(num_loras)!r}, num_loras={out_dir})"
        )
    adapter = open_adapter(adapter_dir)
    out_dir = Path(out_dir)
    check_place(adapter, out_dir)
    if adapter.adapter_config.method != "lora":
        raise InputError(f"{adapter.folder}: is a MultiLoRA adapter already; from_lora takes a plain LoRA")
    refuse_other_tensors(adapter)
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
    uneven = tuple(name for name, layer in adapter.layers.items() if new_rank[name] != layer.r)
    if uneven:
        first = adapter.layers[uneven[0]]
        warnings.warn(
            f"{len(uneven)} layers have a rank that {n} modules cannot share equally ({first.name}: {first.r}); it is "
            f"padded to the next multiple ({new_rank[first.name]}), which leaves ΔW as it is",
            stacklevel=2,
        )
    stored = torch.promote_types(stored_dtype(None, adapter), torch.float32)
    scale_shape = {"vector": lambda d_out: (n, d_out), "scalar": lambda d_out: (n,), "none": None}[scaling]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in adapter.layers.items():
        shapes[f"{PREFIX}{name}.multilora_A.weight"] = (new_rank[name], layer.d_in)
        shapes[f"{PREFIX}{name}.multilora_B.weight"] = (layer.d_out, new_rank[name])
        if scale_shape is not None:
            shapes[f"{PREFIX}{name}.multilora_scaling.weight"] = scale_shape(layer.d_out)
    generator = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, layer in adapter.layers.items():
            folded = adapter.folded(name)
            bound = 1 / math.sqrt(layer.d_in)
            more = torch.empty(new_rank[name] - layer.r, layer.d_in, dtype=folded.dtype)
            more.uniform_(-bound, bound, generator=generator)
            yield f"{PREFIX}{name}.multilora_A.weight", torch.cat([folded.lora_A, more]).to(stored)
            yield f"{PREFIX}{name}.multilora_B.weight", padded(folded.lora_B, (layer.d_out, new_rank[name])).to(stored)
            if scale_shape is not None:
                yield f"{PREFIX}{name}.multilora_scaling.weight", torch.ones(scale_shape(layer.d_out), dtype=stored)

    replaceable = (CONFIG_FILE, WEIGHTS_FILE, *own_card(out_dir))
    with new_folder(out_dir, overwrite=overwrite, replaceable=replaceable) as folder:
        write_safetensors(folder / WEIGHTS_FILE, shapes, stored, tensors())
        write_json(folder / CONFIG_FILE, config.to_dict())
        write_card(folder, adapter_card(config.to_dict(), shapes))
    return FromLoraReport(out_dir, n, config.r, len(adapter.layers), uneven)
