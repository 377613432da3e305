"""A plain LoRA for PEFT, vLLM, SGLang, llama.cpp.

The same ΔW: the learned scale and the constant are folded into B, and there is one rank for all layers, with
`lora_alpha` equal to it: the form that every server reads.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from multilora.adapter.exporting import ExportReport, Format, LayerExport, Layout, export_as
from multilora.adapter.file import PREFIX, WEIGHTS_FILE, AdapterFile
from multilora.adapter.live import adapter_folder
from multilora.adapter.portable import portable_config, portable_rank, vllm_max_lora_rank

_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
_GATE_UP = frozenset({"gate_proj", "up_proj"})


def export_lora(
    adapter_dir: str | Path | nn.Module,
    out_dir: str | Path,
    *,
    adapter_name: str | None = None,
    rank: int | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an adapter as a plain PEFT LoRA, which loads where this package is not installed.

    The form is the portable one: B' folded in fp32, all layers padded with zeros to one rank R, a multiple of 16,
    `r = lora_alpha = R`, no patterns. A plain LoRA (rsLoRA, patterns) is brought into that form as well. The folder
    appears complete or not at all; memory holds one layer at a time.

    Args:
        adapter_dir: folder of the adapter, or the model that carries it (a `PeftModel`).
        out_dir: the folder to create.
        adapter_name: which of the model's adapters; None: the active one.
        rank: truncate each layer to its best approximation of this rank; None: exact. Layers of a smaller total rank
            stay exact, and R is still a multiple of 16.
        dtype: of the stored tensors: float32, bfloat16 or float16 (float64); None: the adapter's own. Cast last.
        overwrite: replace the adapter that `out_dir` holds.

    Raises:
        InputError: the adapter cannot be read or holds what a plain LoRA cannot say (modules_to_save, bias,
            trainable_token_indices); the model has no such adapter; rank out of range; `out_dir` is not empty, or is
            `adapter_dir`.
    """
    with adapter_folder(adapter_dir, adapter_name) as folder:
        return export_as(FORMAT, folder, out_dir, rank=rank, dtype=dtype, overwrite=overwrite)


def _layout(adapter: AdapterFile, needed: int, _dtype: torch.dtype, _base: str | None) -> Layout:
    rank = portable_rank(needed)
    config = portable_config(adapter, rank)
    return Layout(config, config["base_model_name_or_path"], rank, _tensors)


def _tensors(layer: str, lora_A: Tensor, scaled_B: Tensor) -> Mapping[str, Tensor]:
    return {f"{PREFIX}{layer}.lora_A.weight": lora_A, f"{PREFIX}{layer}.lora_B.weight": scaled_B}


def _loading_lines(report: ExportReport) -> tuple[str, ...]:
    return (
        f"model = AutoModelForCausalLM.from_pretrained({(report.base_model or 'BASE_MODEL')!r})",
        f"model = PeftModel.from_pretrained(model, {str(report.out_dir)!r})",
    )


def _server_lines(report: ExportReport) -> tuple[tuple[str, str], ...]:
    base = report.base_model or "BASE_MODEL"
    quoted, out, named = (shlex.quote(text) for text in (base, str(report.out_dir), f"adapter={report.out_dir}"))
    flag = vllm_max_lora_rank(report.rank)
    vllm = (
        f"vllm serve {quoted} --enable-lora --max-lora-rank {flag} --lora-modules {named}"
        if flag
        else f"none of its --max-lora-rank values takes rank {report.rank} (512 at most): export with --rank 512"
    )
    sglang = f"python -m sglang.launch_server --model-path {quoted} --enable-lora --lora-paths {named}"
    if lack := _sglang_lack(report.layers):
        sglang = f"none: {lack}. Merge the adapter instead"
    base_option = "--base" if Path(base).is_dir() else "--base-model-id"
    return (
        ("vLLM", vllm),
        ("SGLang", sglang),
        ("llama.cpp", f"python convert_lora_to_gguf.py {base_option} {quoted} {out}"),
    )


def _sglang_lack(layers: Sequence[LayerExport]) -> str:
    """Why SGLang fails at these layers or silently leaves some out; "" if it does not.

    It multiplies the weights of q, k, v and of gate, up at once. Of those it can do without k and without up.
    """
    blocks: dict[str, set[str]] = {}
    for layer in layers:
        block, _, ending = layer.name.rpartition(".")
        blocks.setdefault(block, set()).add(ending)
    for block, endings in blocks.items():
        for stacked, needed in ((_QKV, {"q_proj", "v_proj"}), (_GATE_UP, {"gate_proj"})):
            if stacked & endings and (missing := sorted(needed - endings)):
                return f"it takes {', '.join(sorted(stacked))} together and {block} has no {', '.join(missing)}"
    return ""


FORMAT = Format(
    name="peft",
    title="plain PEFT LoRA",
    loader="PEFT",
    weights_file=WEIGHTS_FILE,
    reads_base=False,
    layout=_layout,
    loading_lines=_loading_lines,
    server_lines=_server_lines,
)
