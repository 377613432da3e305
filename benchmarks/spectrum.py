"""Spectra of adapters in factor space: one pair against the dense SVD, and a whole adapter of LLaMA-7B's shapes.

python -m benchmarks.spectrum
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks import common
from multilora.bench import machine, rounds
from multilora.storage.safetensors import write_safetensors
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.factors import Factors
from multilora.tuner.svd import factors_svd

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}
# What is asked for: seconds and bytes at most, times faster at least, difference of values relative to σ_1.
TARGETS = {"adapter_seconds": 60.0, "adapter_bytes": 2e9, "pair_ms": 60.0, "times_faster": 300.0, "difference": 1e-5}
PROJECTIONS = {
    "self_attn.q_proj": ("d", "d"),
    "self_attn.k_proj": ("d", "d"),
    "self_attn.v_proj": ("d", "d"),
    "self_attn.o_proj": ("d", "d"),
    "mlp.gate_proj": ("hidden", "d"),
    "mlp.up_proj": ("hidden", "d"),
    "mlp.down_proj": ("d", "hidden"),
}  # (d_out, d_in)
# In a separate process, whose peak memory is the analysis' alone.
_ANALYSE = (
    common.PEAK
    + """
import json, time
import torch
torch.set_num_threads(int(sys.argv[3]))
from multilora.spectral.analyze import AnalyzeOptions, analyze
from multilora.terminal import Silent
options = AnalyzeOptions(mechanism=False)
imported = peak()
began = time.perf_counter()
report = analyze([sys.argv[1]], Path(sys.argv[2]), options, Silent())
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "peak_bytes": peak(), "bytes_before": imported,
                  "matrices": len(report.record.matrices)}))
"""
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.quick:
        options.d, options.hidden, options.layers, options.r = 128, 192, 2, 4
        options.repeats, options.dense_repeats = 5, 2

    console = common.console()
    record = common.start_record("spectrum", options)
    common.print_head(console, record)
    with machine.Load() as load:
        pair = _pair(options)
    record["groups"].append({"name": "pair", **pair, "load": load.facts})
    with machine.Load() as load:
        adapter = _adapter(options)
    record["groups"].append({"name": "adapter", **adapter, "load": load.facts})
    record["targets"] = [] if options.quick else _targets(pair, adapter)

    console.print(_table(options, pair))
    console.print(
        f"{adapter['matrices']} matrices of a model with d = {options.d}, MLP {options.hidden}, n·r = "
        f"{options.num_loras * options.r}: analysed in {adapter['seconds']:.1f} s, peak memory "
        f"{adapter['peak_bytes'] / 1e6:,.0f} MB, of which {adapter['bytes_before'] / 1e6:,.0f} MB are Python and torch "
        f"(the adapter's file has {adapter['file_bytes'] / 1e6:,.0f} MB)",
        highlight=False,
        soft_wrap=True,
    )
    common.show_targets(console, record)
    common.finish(console, record, options.output)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = common.shape_parser((__doc__ or "").splitlines()[0], d=4096, layers=32, repeats=15)
    add = parser.add_argument
    add("--hidden", type=int, default=11008, help="size of the MLP")
    add("--dense-repeats", type=int, default=3, help="timed dense decompositions")
    return parser


def _random_pair(d_out: int, d_in: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    A = torch.randn(rank, d_in, generator=generator) / d_in**0.5
    return A, torch.randn(d_out, rank, generator=generator) / rank**0.5


def _pair(options: argparse.Namespace) -> dict[str, Any]:
    """One square pair, in both precisions, and the dense values of its product."""
    A, B = _random_pair(options.d, options.d, options.num_loras * options.r, torch.Generator().manual_seed(0))
    factors = Factors(A, B)
    dense = factors.delta()
    seconds = {name: _timed(lambda dtype=dtype: factors_svd(factors, dtype=dtype), options.repeats, 2)
               for name, dtype in PRECISIONS.items()}  # fmt: skip
    values: list[Tensor] = []
    seconds["dense"] = _timed(lambda: values.append(torch.linalg.svdvals(dense)), options.dense_repeats, 0)
    expected = values[0]
    differences = {}
    for name, dtype in PRECISIONS.items():
        S = factors_svd(factors, dtype=dtype)[1].float()
        whole = torch.cat([S, torch.zeros(len(expected) - len(S))])
        differences[name] = float((whole - expected).abs().max() / expected[0])
    return {
        "shape": [options.d, options.d],
        "rank": options.num_loras * options.r,
        "seconds": {name: rounds.summary(times) for name, times in seconds.items()},
        "samples": seconds,
        "difference": differences,
    }


def _timed(work: Any, repeats: int, warm_up: int) -> list[float]:
    times: list[float] = []
    for _ in range(warm_up + repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times[warm_up:]


def _adapter(options: argparse.Namespace) -> dict[str, Any]:
    """`multilora analyze` on a random MultiLoRA adapter, without a base model."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder, "adapter")
        adapter.mkdir()
        size = write_adapter(adapter, options)
        command = [sys.executable, "-c", _ANALYSE, str(adapter), str(Path(folder, "out")), str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "file_bytes": size}


def write_adapter(folder: Path, options: argparse.Namespace) -> int:
    """A random MultiLoRA adapter for all linear layers of the blocks, in fp32; the bytes of its file."""
    n, rank = options.num_loras, options.num_loras * options.r
    sizes = {"d": options.d, "hidden": options.hidden}
    layers = [
        (f"base_model.model.model.layers.{block}.{projection}", sizes[d_out], sizes[d_in])
        for block in range(options.layers)
        for projection, (d_out, d_in) in PROJECTIONS.items()
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, d_out, d_in in layers:
        shapes |= {f"{name}.multilora_A.weight": (rank, d_in), f"{name}.multilora_B.weight": (d_out, rank)}
        shapes[f"{name}.multilora_scaling.weight"] = (n, d_out)
    generator = torch.Generator().manual_seed(0)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, d_out, d_in in layers:
            A, B = _random_pair(d_out, d_in, rank, generator)
            yield f"{name}.multilora_A.weight", A
            yield f"{name}.multilora_B.weight", B
            yield f"{name}.multilora_scaling.weight", 5e-5 * torch.randn(n, d_out, generator=generator)

    file = folder / "adapter_model.safetensors"
    write_safetensors(file, shapes, torch.float32, tensors())
    config = MultiLoraConfig(r=options.r, num_loras=n, target_modules="all-linear", task_type="CAUSAL_LM")
    config.inference_mode = True
    config.save_pretrained(str(folder))
    return file.stat().st_size


def _targets(pair: dict[str, Any], adapter: dict[str, Any]) -> list[dict[str, Any]]:
    fp32, dense = (pair["seconds"][name]["median"] for name in ("fp32", "dense"))
    figures = {
        "adapter_seconds": adapter["seconds"],
        "adapter_bytes": adapter["peak_bytes"],
        "pair_ms": 1e3 * fp32,
        "times_faster": dense / fp32,
        "difference": pair["difference"]["fp32"],
    }
    return [
        {
            "figure": name,
            "value": value,
            "target": f"{'>=' if name == 'times_faster' else '<'} {TARGETS[name]:g}",
            "met": value >= TARGETS[name] if name == "times_faster" else value < TARGETS[name],
        }
        for name, value in figures.items()
    ]


def _table(options: argparse.Namespace, pair: dict[str, Any]) -> Table:
    table = Table(title=f"One pair, {options.d} x {options.d}, n·r = {pair['rank']}", title_justify="left")
    for heading in (
        "",
        "median, ms",
        "quartiles, ms",
        "least, ms",
        "times faster",
        "difference / largest",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    dense = pair["seconds"]["dense"]["median"]
    labels = {"fp32": "U, S, V from the factors, fp32", "fp64": "the same, fp64",
              "dense": "dense svdvals of the product, fp32"}  # fmt: skip
    for name, label in labels.items():
        s = {key: 1e3 * value for key, value in pair["seconds"][name].items()}
        difference = f"{pair['difference'][name]:.1e}" if name in pair["difference"] else ""
        table.add_row(
            label,
            f"{s['median']:,.1f}",
            f"{s['q1']:,.1f} to {s['q3']:,.1f}",
            f"{s['min']:,.1f}",
            f"{dense / pair['seconds'][name]['median']:,.0f}",
            difference,
        )
    return table


if __name__ == "__main__":
    main()
