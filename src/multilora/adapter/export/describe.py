"""`multilora export`: what to tell about an export besides that it was written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multilora.adapter.export.common import ExportReport, LayerExport
from multilora.adapter.export.portable import vllm_max_lora_rank

_WIDEST_GRID = 8  # columns that fit into a terminal
_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
_GATE_UP = frozenset({"gate_proj", "up_proj"})


@dataclass(frozen=True)
class ErrorTable:
    """Relative errors in percent: a row per block and a column per kind of layer, or a row per layer.

    Attributes:
        columns: headings; the first is of the row's name.
        rows: cells; "" where a block lacks a layer.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def error_table(layers: Sequence[LayerExport]) -> ErrorTable:
    """The relative error of every layer, as compact as the layers' names allow."""
    matches = [re.fullmatch(r"(\D*?)(\d+)\.(.+)", layer.name) for layer in layers]
    places = [(match[1], match[2], match[3]) for match in matches if match]
    kinds = list(dict.fromkeys(kind for _, _, kind in places))
    if len(places) < len(layers) or len({stem for stem, _, _ in places}) > 1 or len(kinds) > _WIDEST_GRID:
        return ErrorTable(("layer", "error"), tuple((layer.name, _percent(layer.relative_error)) for layer in layers))
    cells: dict[str, dict[str, str]] = {}
    for (_, block, kind), layer in zip(places, layers, strict=True):
        cells.setdefault(block, {})[kind] = _percent(layer.relative_error)
    last = [kind.rpartition(".")[2] for kind in kinds]
    names = last if len(set(last)) == len(last) else kinds
    return ErrorTable(
        ("block", *names), tuple((block, *(row.get(kind, "") for kind in kinds)) for block, row in cells.items())
    )


def loading_lines(report: ExportReport) -> tuple[str, str]:
    """Two lines of Python that load the export with PEFT, or with mlx-lm."""
    base = report.base_model or "BASE_MODEL"
    if report.format == "mlx":
        return (
            "from mlx_lm import load",
            f"model, tokenizer = load({base!r}, adapter_path={str(report.out_dir)!r})",
        )
    return (
        f"model = AutoModelForCausalLM.from_pretrained({base!r})",
        f"model = PeftModel.from_pretrained(model, {str(report.out_dir)!r})",
    )


def server_lines(report: ExportReport) -> tuple[tuple[str, str], ...]:
    """(server, command or why there is none) for the servers that take the export."""
    base = report.base_model or "BASE_MODEL"
    quoted, out, named = (shlex.quote(text) for text in (base, str(report.out_dir), f"adapter={report.out_dir}"))
    if report.format == "mlx":
        return (
            ("mlx-lm", f"mlx_lm.server --model {quoted} --adapter-path {out}"),
            ("merged", f"mlx_lm.fuse --model {quoted} --adapter-path {out} --save-path MODEL"),
        )
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
    """Why SGLang fails at these layers or leaves some out without a word; "" if it does not.

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


def _percent(error: float) -> str:
    return f"{100 * error:.2f}" if error else "0"
