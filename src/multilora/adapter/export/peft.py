"""From MultiLoRA to plain PEFT LoRA, with the same ΔW.

`export_lora` writes the one pair of `functional.py` as a plain LoRA in the form that every server reads: the learned
scale and the constant folded into B, one rank for all layers, `lora_alpha` equal to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from multilora.adapter.export.common import (
    ExportReport,
    Layout,
    open_for_export,
    stored_dtype,
    write_export,
)
from multilora.adapter.export.portable import portable_config, portable_rank
from multilora.adapter.file import PREFIX, WEIGHTS_FILE


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
    out_dir = Path(out_dir)
    adapter, needed = open_for_export(adapter_dir, out_dir, rank)
    config = portable_config(adapter, portable_rank(needed))
    layout = Layout(
        "peft", WEIGHTS_FILE, config, config["base_model_name_or_path"], portable_rank(needed), _peft_tensors
    )
    return write_export(adapter, out_dir, layout, rank=rank, dtype=stored_dtype(dtype, adapter), overwrite=overwrite)


def _peft_tensors(layer: str, lora_A: Tensor, scaled_B: Tensor) -> Mapping[str, Tensor]:
    return {f"{PREFIX}{layer}.lora_A.weight": lora_A, f"{PREFIX}{layer}.lora_B.weight": scaled_B}
