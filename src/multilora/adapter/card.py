"""Model cards of adapters on disk: MultiLoRA's, a plain LoRA's, and what an export made."""

from __future__ import annotations

from pathlib import Path

import torch

from multilora.adapter.config import CONFIG_FILE, read_adapter_config
from multilora.adapter.file import WEIGHTS_FILE, AdapterFile
from multilora.storage.model_card import Card, table
from multilora.storage.safetensors import dtype_name, read_header
from multilora.tuner.card import PAPER, adapter_card, adapter_metadata, loading_code, title


def folder_card(folder: Path) -> Card:
    """The card of an adapter's folder.

    Raises:
        InputError: its configuration cannot be read.
    """
    read = read_adapter_config(folder / CONFIG_FILE)
    if read.method == "multilora":
        return adapter_card(
            read.config.to_dict(),
            {name: tensor.shape for name, tensor in read_header(folder / WEIGHTS_FILE)[0].items()},
        )
    raw = read.raw
    rows = [("rank (`r`)", raw["r"]), ("`lora_alpha`", raw["lora_alpha"]), ("dropout", raw.get("lora_dropout", 0.0))]
    return Card(
        title=title("LoRA", raw),
        text="A plain LoRA adapter for [PEFT](https://github.com/huggingface/peft). ADAPTER is this folder, or its id "
        f"on the Hub:\n\n{loading_code(raw)}",
        metadata=adapter_metadata(raw, "lora"),
        sections=(("Method", table(("", ""), rows)),),
    )


def export_card(
    adapter: AdapterFile, form: str, loader: str, rank: int, truncated_to: int | None, dtype: torch.dtype
) -> Card:
    """The card of an export.

    Args:
        adapter: what was exported.
        form: what the export is, as the format's title says.
        loader: the library that loads it.
        rank: of all layers, padding included.
        truncated_to: the rank asked for; None: exact.
        dtype: of the tensors.
    """
    raw, config = adapter.adapter_config.raw, adapter.adapter_config.config
    multilora = adapter.adapter_config.method == "multilora"
    source = f"[MultiLoRA]({PAPER}) adapter ({config.num_loras} modules of rank {config.r})" if multilora else "LoRA"
    truncated = f", cut to rank {truncated_to} per layer, which changes its answers" if truncated_to else ", exactly"
    library = loader.lower()
    loading = f":\n\n{loading_code(raw)}" if library == "peft" else "."
    metadata = adapter_metadata(raw, "lora")
    rows = [("rank", rank), ("adapted layers", f"{len(adapter.layers):,}"), ("stored in", dtype_name(dtype))]
    return Card(
        title=title("LoRA", raw),
        text=f"A {source} as {form}{truncated}. {loader} loads it without multilora{loading}",
        metadata={
            **metadata,
            "library_name": "mlx" if library.startswith("mlx") else library,
            "tags": [*metadata["tags"], *(["multilora"] if multilora else [])],
        },
        sections=(("Method", table(("", ""), rows)),),
    )
