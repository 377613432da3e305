"""For mlx-lm.

mlx-lm runs models on Apple silicon. It computes y = W x + scale · (x a) b with `lora_a` (d_in, rank) and `lora_b`
(rank, d_out): the transposes of the one pair (A, B') at scale 1. It has one rank for all layers, names them from within
a block ("self_attn.q_proj") and counts blocks from the model's end; a layer that a block has and the adapter has not
keeps its `lora_b` of zeros.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multilora.adapter.exporting import ExportReport, Format, Layout, export_as
from multilora.adapter.file import AdapterFile
from multilora.adapter.live import adapter_folder
from multilora.base.structure import model_structure, output_layer_name
from multilora.errors import InputError, nearest

MLX_WEIGHTS_FILE = "adapters.safetensors"

_OUTPUT_LAYER = "lm_head"
# Where mlx-lm's blocks have another name than transformers', by model_type.
_BLOCKS = {"gpt2": "model.h", "gptj": "model.h", "gpt_neox": "model.h"}
# The model types of which mlx-lm 0.32 was seen to compute the same logits with an export as PEFT with the adapter.
_READ_BACK = (
    "llama mistral ministral3 mixtral qwen2 qwen2_moe qwen3 gemma gemma2 gemma3_text phi phi3 olmo2 olmo3 olmoe "
    "smollm3 granite granitemoe cohere cohere2 stablelm starcoder2 glm4 helium seed_oss ernie4_5 internlm3 nemotron "
    "hunyuan_v1_dense gpt2 gptj gpt_neox"
)


def export_mlx(
    adapter_dir: str | Path | nn.Module,
    out_dir: str | Path,
    *,
    adapter_name: str | None = None,
    base: str | None = None,
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an adapter (MultiLoRA or plain LoRA) in the form that mlx-lm loads: `adapters.safetensors` and a config.

    B' is folded in fp32, all layers are padded with zeros to the largest rank, and `scale` is 1. The base model's
    configuration is read (no weights) for its blocks.

    Args:
        adapter_dir: folder of the adapter, or the model that carries it (a `PeftModel`).
        out_dir: the folder to create.
        adapter_name: which of the model's adapters; None: the active one.
        base: folder or hub id of the base model; None: as the adapter's configuration names it.
        rank: truncate each layer to its best approximation of this rank; None: exact.
        dtype: of the stored tensors: float32, bfloat16 or float16; None: the adapter's own. Cast last.
        overwrite: replace the MLX adapter that `out_dir` holds.

    Raises:
        InputError: as `export_lora`; also where the base model's configuration cannot be read or is another model's,
            and where a layer is adapted that mlx-lm cannot adapt.
    """
    with adapter_folder(adapter_dir, adapter_name) as folder:
        return export_as(FORMAT, folder, out_dir, base=base, rank=rank, dtype=dtype, overwrite=overwrite)


def _layout(adapter: AdapterFile, needed: int, dtype: torch.dtype, base: str | None) -> Layout:
    if dtype == torch.float64:
        raise InputError(f"{adapter.folder}: MLX computes no float64 on a GPU; export with dtype float32")
    base = base or adapter.adapter_config.raw.get("base_model_name_or_path")
    model = _base_model(adapter, base)
    _check_layers(adapter, model, base)
    names, keys, num_layers = _places(adapter, model)
    config: dict[str, Any] = {
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "keys": keys, "rank": needed, "scale": 1.0},
        "model": base,
        "num_layers": num_layers,
    }

    def tensors(layer: str, lora_A: Tensor, scaled_B: Tensor) -> Mapping[str, Tensor]:
        return {f"{names[layer]}.lora_a": lora_A.T, f"{names[layer]}.lora_b": scaled_B.T}

    return Layout(config, base, needed, tensors)


def _loading_lines(report: ExportReport) -> tuple[str, ...]:
    return (
        "from mlx_lm import load",
        f"model, tokenizer = load({report.base_model!r}, adapter_path={str(report.out_dir)!r})",
    )


def _server_lines(report: ExportReport) -> tuple[tuple[str, str], ...]:
    base, out = shlex.quote(str(report.base_model)), shlex.quote(str(report.out_dir))
    return (
        ("mlx-lm", f"mlx_lm.server --model {base} --adapter-path {out}"),
        ("merged", f"mlx_lm.fuse --model {base} --adapter-path {out} --save-path MODEL"),
    )


def _base_model(adapter: AdapterFile, base: str | None) -> nn.Module:
    """The base model's modules, without weights."""
    need = "the MLX format counts blocks from the model's end and so needs the base model's config.json"
    if not base:
        raise InputError(f"{adapter.folder}: the adapter names no base model; {need}. Name it: --base (base=)")
    try:
        return model_structure(base)
    except InputError as error:
        raise InputError(f"{error}. ({need}; --base (base=) names another place for it.)") from error


def _check_layers(adapter: AdapterFile, model: nn.Module, base: str | None) -> None:
    """The adapted layers are linear layers of this model, of these shapes."""
    modules = dict(model.named_modules())
    for name, layer in adapter.layers.items():
        module, ours = modules.get(name), (layer.d_in, layer.d_out)
        if not isinstance(module, (nn.Linear, Conv1D)):
            raise InputError(
                f"{adapter.folder}: {name!r} is no linear layer of the base model {base!r}{nearest(name, modules)}. "
                "Name the model that the adapter was trained on: --base (base=)"
            )
        weight = module.weight  # (d_out, d_in); of a Conv1D (d_in, d_out)
        theirs = tuple(weight.shape) if isinstance(module, Conv1D) else tuple(weight.shape)[::-1]
        if theirs != ours:
            raise InputError(
                f"{adapter.folder}: {name!r} has (d_in, d_out) = {ours}, and {theirs} in the base model {base!r}. "
                "Name the model that the adapter was trained on: --base (base=)"
            )


def _places(adapter: AdapterFile, model: nn.Module) -> tuple[dict[str, str], list[str], int]:
    """Layer to its name in mlx-lm; `keys`; `num_layers`, counted from the last block.

    Raises:
        InputError: layers that are in no block, or in a second list of blocks.
    """
    config: Any = model.config
    model_type = str(config.model_type)
    matches = {name: re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name) for name in adapter.layers}
    parts = {name: (match[1], int(match[2]), match[3]) for name, match in matches.items() if match}
    counts = Counter(stem for stem, _, _ in parts.values())
    blocks = counts.most_common(1)[0][0] if counts else ""
    tied = bool(getattr(config, "tie_word_embeddings", False))
    names: dict[str, str] = {}
    outside: list[str] = []
    for name in adapter.layers:
        if name in parts and parts[name][0] == blocks:
            names[name] = ".".join((_BLOCKS.get(model_type, blocks), *map(str, parts[name][1:])))
        elif name == _OUTPUT_LAYER and name == output_layer_name(model) and not tied and model_type not in _BLOCKS:
            names[name] = name
        else:
            outside.append(name)
    if outside:
        more = f" and {len(outside) - 4} more" if len(outside) > 4 else ""
        raise InputError(
            f"{adapter.folder}: mlx-lm adapts the layers of one list of blocks and an untied {_OUTPUT_LAYER}; it "
            f"cannot take {', '.join(map(repr, outside[:4]))}{more}. Merge the adapter into its base model instead, or "
            "train without them (target_modules, exclude_modules)"
        )
    if model_type not in _READ_BACK.split():
        warnings.warn(
            f"no export for a {model_type!r} model has been read back with mlx-lm. If it names layers otherwise than "
            "transformers, it says so when it loads this adapter ('not an adapter parameter in the model')",
            stacklevel=3,
        )
    inside = [parts[name] for name in names if name in parts]
    keys = list(dict.fromkeys(parts[name][2] if name in parts else name for name in names))
    if not inside:
        return names, keys, 1
    in_model = max(int(match[1]) for name, _ in model.named_modules() if (match := _block(name, blocks))) + 1
    return names, keys, in_model - min(index for _, index, _ in inside)


def _block(name: str, blocks: str) -> re.Match[str] | None:
    return re.fullmatch(rf"{re.escape(blocks)}\.(\d+)", name)


FORMAT = Format(
    name="mlx",
    title="MLX adapter",
    loader="mlx-lm",
    weights_file=MLX_WEIGHTS_FILE,
    reads_base=True,
    layout=_layout,
    loading_lines=_loading_lines,
    server_lines=_server_lines,
)
