"""The streaming merge of a generated checkpoint of LLaMA-7B's shapes, beside a plain copy of its files.

python -m benchmarks.merge
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks import common
from benchmarks.spectrum import PROJECTIONS, write_adapter
from multilora.bench import machine, rounds
from multilora.storage.safetensors import header_bytes

# What is asked for: bytes of output per second at least, with fsync and without measuring the error of rounding; peak
# memory at most, in fp32 sizes of the largest tensor and bytes besides.
TARGETS = {"bytes_per_second": 0.5e9, "largest_tensors": 2.5, "bytes_besides": 600e6}
SHARDS = 4
# In a separate process, whose peak memory, mapped pages included, is the merge's alone.
_MERGE = (
    common.PEAK
    + """
import json, time
import torch
torch.set_num_threads(int(sys.argv[4]))
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
imported = peak()
began, used = time.perf_counter(), time.process_time()
report = merge_adapters(sys.argv[1], [sys.argv[2]], sys.argv[3], MergeOptions(report=sys.argv[5] == "True"))
print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used,
                  "rounding_seconds": report.rounding_seconds, "size": report.size,
                  "peak_bytes": peak(), "bytes_before": imported, "adapted": report.adapted}))
"""
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.d, options.hidden, options.layers, options.vocabulary, options.r, options.repeats = 64, 96, 4, 100, 4, 1

    console = common.console()
    folder = options.__dict__.pop("folder")  # a path says nothing to others
    record = common.start_record("merge", options)
    common.print_head(console, record)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        places = Path(scratch, "base"), Path(scratch, "adapter"), Path(scratch, "out")
        for place in places[:2]:
            place.mkdir()
        size, largest = _write_base(places[0], options)
        adapter_size = write_adapter(places[1], options)
        with machine.Load() as load:
            runs = _rounds(*places, options)
    limit = TARGETS["largest_tensors"] * 4 * largest + TARGETS["bytes_besides"]
    peak = max(run["peak_bytes"] for kind in ("merge", "merge_with_report") for run in runs[kind])
    record["groups"].append(
        {
            "name": "merge",
            "shards": SHARDS,
            "bytes": size,
            "adapter_bytes": adapter_size,
            "rank": options.num_loras * options.r,
            "largest_tensor": largest,
            "samples": runs,
            "seconds": {kind: rounds.summary([run["seconds"] for run in found]) for kind, found in runs.items()},
            "peak_bytes": peak,
            "peak_limit": limit,
            "bytes_before": runs["merge"][0]["bytes_before"],
            "load": load.facts,
        }
    )
    group = record["groups"][0]
    rate = size / group["seconds"]["merge"]["median"]
    record["targets"] = (
        []
        if options.quick
        else [
            _target("bytes_per_second", rate, f">= {TARGETS['bytes_per_second']:.3g}", rate >= 0.5e9),
            _target("peak_bytes", peak, f"<= {limit:.3g}", peak <= limit),
        ]
    )
    console.print(_table(group))
    console.print(
        f"peak memory {peak / 1e6:,.0f} MB, mapped pages included, of which {group['bytes_before'] / 1e6:,.0f} MB are "
        f"Python and torch; 2.5 times the largest tensor in fp32 plus 600 MB are {limit / 1e6:,.0f} MB",
        highlight=False,
        soft_wrap=True,
    )
    loads = group["load"]
    console.print(f"load average {loads['load_average_before']} before, {loads['load_average_after']} after")
    common.show_targets(console, record)
    common.finish(console, record, options.output)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = common.shape_parser((__doc__ or "").splitlines()[0], d=4096, layers=9, repeats=3)
    add = parser.add_argument
    add("--hidden", type=int, default=11008, help="size of the MLP")
    add("--vocabulary", type=int, default=32000, help="tokens")
    add("--cold", action="store_true", help="drop the base model from the system's cache before each")
    add(
        "--folder",
        type=Path,
        default=None,
        help="where to write (3 times the checkpoint); default: the system's temporary folder",
    )
    return parser


def _rounds(base: Path, adapter: Path, out: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Copy, merge, and merge with the error of rounding, one after the other."""
    runs: dict[str, list[dict[str, Any]]] = {"copy": [], "merge": [], "merge_with_report": []}
    for _ in range(options.repeats):
        for kind, found in runs.items():
            if options.cold:
                _drop(base)
            if kind == "copy":
                found.append({"seconds": _copy(base, out)})
            else:
                found.append(_merge(base, adapter, out, options.threads, kind == "merge_with_report"))
            shutil.rmtree(out)
    return runs


def _copy(base: Path, out: Path) -> float:
    """Every file as the system copies it, each on the disk before the next."""
    began = time.perf_counter()
    out.mkdir()
    for file in sorted(base.iterdir()):
        shutil.copyfile(file, out / file.name)
        with (out / file.name).open("rb") as copied:
            os.fsync(copied.fileno())
    return time.perf_counter() - began


def _merge(base: Path, adapter: Path, out: Path, threads: int, report: bool) -> dict[str, Any]:
    command = [sys.executable, "-c", _MERGE, str(base), str(adapter), str(out), str(threads), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _drop(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_base(folder: Path, options: argparse.Namespace) -> tuple[int, int]:
    """A random bf16 Llama in 4 shards with their index; the bytes of the shards and the numbers of the largest tensor.

    The numbers come from one block of random ones, from other places of it for every tensor: making them all anew
    would take longer than the merge.
    """
    sizes = {"d": options.d, "hidden": options.hidden}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (options.vocabulary, options.d)}
    for block in range(options.layers):
        stem = f"model.layers.{block}"
        shapes |= {f"{stem}.{name}.weight": (sizes[o], sizes[i]) for name, (o, i) in PROJECTIONS.items()}
        shapes |= {f"{stem}.{name}.weight": (options.d,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes |= {"model.norm.weight": (options.d,), "lm_head.weight": (options.vocabulary, options.d)}
    names = [f"model-{index + 1:05}-of-{SHARDS:05}.safetensors" for index in range(SHARDS)]
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    places: dict[str, str] = {}
    done = 0
    for name, shape in shapes.items():
        places[name] = names[min(done * SHARDS // total, SHARDS - 1)]
        done += 2 * math.prod(shape)
    pool = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * options.d**-0.5).bfloat16()
    written = 0
    for file in names:
        own = {name: shapes[name] for name, place in places.items() if place == file}
        with (folder / file).open("wb") as opened:
            opened.write(header_bytes({name: ("BF16", shape, 2 * math.prod(shape)) for name, shape in own.items()}))
            for index, shape in enumerate(own.values()):
                for part in _slices(pool, math.prod(shape), index * 7919):
                    opened.write(part.view(torch.uint8).numpy().data)
            opened.flush()
            os.fsync(opened.fileno())
        written += (folder / file).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": options.d,
        "intermediate_size": options.hidden,
        "num_hidden_layers": options.layers,
        "vocab_size": options.vocabulary,
        "num_attention_heads": options.d // 32,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return written, max(math.prod(shape) for shape in shapes.values())


def _slices(pool: torch.Tensor, count: int, start: int) -> Iterator[torch.Tensor]:
    place = start % len(pool)
    while count:
        part = pool[place : place + count]
        count -= len(part)
        place = 0
        yield part


def _target(figure: str, value: float, target: str, met: bool) -> dict[str, Any]:
    return {"figure": figure, "value": value, "target": target, "met": met}


def _table(group: dict[str, Any]) -> Table:
    table = Table(
        title=f"{group['bytes'] / 1e9:.2f} GB in {group['shards']} shards, bf16, n·r = {group['rank']}; every file is "
        "on the disk (fsync) at the end",
        title_justify="left",
    )
    for heading in ("", "median, s", "least, s", "GB/s", "GB per processor second", "peak memory, MB"):
        table.add_column(heading, justify="right" if heading else "left")
    labels = {"copy": "plain copy of the files", "merge": "merge", "merge_with_report": "merge, errors measured"}
    for kind, label in labels.items():
        seconds = group["seconds"][kind]
        runs = group["samples"][kind]
        peaks = [run["peak_bytes"] for run in runs if "peak_bytes" in run]
        used = [group["bytes"] / run["cpu_seconds"] / 1e9 for run in runs if "cpu_seconds" in run]
        table.add_row(
            label,
            f"{seconds['median']:.2f}",
            f"{seconds['min']:.2f}",
            f"{group['bytes'] / seconds['median'] / 1e9:.2f}",
            f"{max(used):.2f}" if used else "",
            f"{max(peaks) / 1e6:,.0f}" if peaks else "",
        )
    return table


if __name__ == "__main__":
    main()
