"""`multilora analyze`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class AnalysisPrecision(StrEnum):
    """Names of the precisions to decompose in."""

    AUTO = "auto"
    FP32 = "fp32"
    FP64 = "fp64"


def analyze(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of runs, comparisons, adapters (PEFT LoRA too) and models."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the page, the figures and the numbers.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The base model, folder or hub id. Default: the runs' base model."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Compare subspaces with this run. Default: the full fine-tuning, in a comparison of the same seed.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Singular vectors to compare, at most.")] = 64,
    exact: Annotated[
        bool, typer.Option("--exact", help="Decompose large full matrices as a whole, which takes long.")
    ] = False,
    precision: Annotated[
        AnalysisPrecision, typer.Option(help="auto: fp64, and fp32 for large full matrices.")
    ] = AnalysisPrecision.AUTO,
    mechanism: Annotated[
        bool, typer.Option(help="Compare with the base weights: amplification, errors of merging.")
    ] = True,
    intruders: Annotated[
        bool, typer.Option("--intruders", help="Count intruder dimensions, too; decomposes every base weight.")
    ] = False,
    bench: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="bench.json of `multilora bench --out`, for the page's section on resources."
        ),
    ] = None,
) -> None:
    """Look at what training changed: spectra, subspaces, modules, mechanism. Resumes where it was interrupted."""
    from multilora.bench.record import read_bench
    from multilora.spectral.analyze import AnalyzeOptions
    from multilora.spectral.analyze import analyze as analyze_runs
    from multilora_cli.flags import naming_flags
    from multilora_cli.pages import write_analysis_page
    from multilora_cli.progress import analysis_bar
    from multilora_cli.show_analysis import show_analysis

    options = AnalyzeOptions(base, reference, top, exact, precision.value, mechanism, intruders)
    try:
        with naming_flags(bench="--bench", out="--out", top="--top", precision="--precision", intruders="--intruders"):
            measured = None if bench is None else read_bench(bench)
            report = analyze_runs(runs, out, options, analysis_bar())
        page = write_analysis_page(report, runs, measured)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue with the remaining matrices", err=True)
        raise typer.Exit(130) from None
    show_analysis(report, page)
    if report.faults:
        raise typer.Exit(1)
