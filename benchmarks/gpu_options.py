"""The options of `gpu`, and what they cannot be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import common

TOY = {"d": 64, "mlp": 176, "layers": 2, "heads": 4, "vocabulary": 256, "length": 32, "r": 4}


def parsed(arguments: Sequence[str] | None, description: str = "") -> argparse.Namespace:
    """The options, with a device that is there; else one message and exit code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="toy size, few rounds, on any device: its figures mean nothing")
    add(
        "--device",
        choices=("cuda", "cpu"),
        default=None,
        help="None: the GPU; with --quick the CPU where there is none",
    )
    add("--d", type=int, default=4096, help="hidden size")
    add("--mlp", type=int, default=11008, help="the MLP's size")
    add("--layers", type=int, default=32, help="decoder blocks")
    add("--heads", type=int, default=32, help="attention heads")
    add("--vocabulary", type=int, default=32000, help="tokens known")
    add("--batch", type=int, default=1, help="sequences in the batch")
    add("--length", type=int, default=2048, help="tokens per sequence")
    add("--num-loras", nargs="+", type=int, default=[3, 5], metavar="N", help="LoRA modules per layer")
    add("--r", type=int, default=32, help="rank of one LoRA module")
    add("--adapter-dtype", choices=sorted(common.DTYPES), default="fp32", help="MultiLoRA's scale is fp32 in both")
    add("--checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"], help="blocks run again in backward")
    add("--repeats", type=int, default=20, help="timed rounds per N and kind of checkpointing, at most")
    add("--minutes", type=float, default=5.0, help="time for all rounds together; each group gets at least five")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads of torch's CPU operations")
    add("--output", type=Path, default=None, help="JSON file; None: a dated name in results/, and nothing for --quick")
    parser.set_defaults(clock="wall")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(TOY, repeats=min(options.repeats, 5), minutes=0.0)
    there = torch.cuda.is_available()
    if options.device is None:
        options.device = "cuda" if there or not options.quick else "cpu"
    if options.device == "cuda" and not there:
        print(
            "benchmarks.gpu needs a GPU that torch can use; --quick shows that it runs without one, and --device cpu "
            "with smaller sizes (--d, --mlp, --layers, --heads, --vocabulary, --length) measures the CPU",
            file=sys.stderr,
        )
        raise SystemExit(2)
    for name in ("d", "mlp", "layers", "heads", "vocabulary", "batch", "length", "r", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(options, name)}")
    if min(options.num_loras) < 1 or len(set(options.num_loras)) < len(options.num_loras):
        parser.error(f"--num-loras: each at least 1, and once; got {options.num_loras}")
    if options.d % options.heads or options.d // options.heads % 2:
        parser.error(f"--d must be an even multiple of --heads; got {options.d} and {options.heads}")
    return options
