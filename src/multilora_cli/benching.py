"""`multilora bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id; its configuration is read, no weights. Default: a toy Llama.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated: full, lora@24, multilora@3x8. Default: full, LoRA r and n·r, n = 1, n, 5."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of a module, in the default methods.")] = 8,
    num_loras: Annotated[int, typer.Option(help="Modules, in the default methods.")] = 3,
    batch: Annotated[int, typer.Option(help="Rows in a batch.")] = 4,
    seq_len: Annotated[str, typer.Option(help="Tokens per row; comma-separated: one after the other.")] = "64,128",
    precision: Annotated[str, typer.Option(metavar="fp32|bf16", help="Of the base's weights.")] = "fp32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Blocks run again in backward.")] = False,
    repeats: Annotated[int, typer.Option(help="Timed rounds for each length, at most.")] = 15,
    minutes: Annotated[float, typer.Option(help="For all rounds, at most; five of each length are run anyway.")] = 1.0,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Default: the GPU, if there is one.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for bench.json, bench.txt, report.html and figures. Default: none is written."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
) -> None:
    """Measure what methods cost on this machine: speed, and memory by kind, by modules and by length."""
    from rich.console import Console

    from multilora.bench.run import BenchOptions
    from multilora.bench.run import bench as measure
    from multilora.report.page import REPORT_FILE, report_on
    from multilora.report.static import write_figures
    from multilora_cli.flags import naming_flags
    from multilora_cli.show_bench import show_bench
    from multilora_cli.training import listed

    if precision not in ("fp32", "bf16"):
        raise typer.BadParameter(f"--precision: fp32 or bf16; got {precision!r}")
    try:
        lengths = [int(length) for length in seq_len.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--seq-len: comma-separated numbers, such as 64,128; got {seq_len!r}") from None
    options = BenchOptions(
        model=model,
        methods=listed(methods),
        r=rank,
        num_loras=num_loras,
        batch=batch,
        lengths=lengths,
        bf16=precision == "bf16",
        checkpointing=checkpointing,
        repeats=repeats,
        minutes=minutes,
        device=device,
        out=out,
        trust_remote_code=trust_remote_code,
    )
    err = Console(stderr=True, highlight=False)
    with naming_flags(
        r="--rank", num_loras="--num-loras", batch="--batch", lengths="--seq-len", repeats="--repeats",
        device="--device", out="--out",
    ):  # fmt: skip
        record = measure(options, lambda text: err.print(text, style="dim", markup=False, soft_wrap=True))
    if out is not None and record.names:
        write_figures(out / "figures", None, record)
        report_on(out / REPORT_FILE, None, [], record)
    show_bench(record, out)
    if record.faults:
        raise typer.Exit(1)
