"""`multilora eval` and `analyze`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Split(StrEnum):
    """Names of the splits to evaluate on."""

    TEST = "test"
    VALIDATION = "validation"


class LongPrompt(StrEnum):
    """What may be done with a prompt that does not fit."""

    DROP = "drop"
    TRUNCATE_LEFT = "truncate_left"
    FAIL = "fail"


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_ADAPTER", help="A run folder, a folder with an adapter or a model, or a hub id."
        ),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Tasks of the recipe, or of lm-evaluation-harness by its names. Default: the recipe's."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Names the tasks, and an adapter's base model. Default: the run's own.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Rows of the recipe's tasks to evaluate on.")] = Split.TEST,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A fixed sample of so many rows of each task, the same for every model.")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="auto|N", help="Rows at a time; auto: on CUDA as many as fit, and 16 elsewhere.")
    ] = "auto",
    on_long_prompt: Annotated[
        LongPrompt,
        typer.Option(help="A row that does not fit into the context: leave it out, cut off its beginning, or stop."),
    ] = LongPrompt.DROP,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the context. Default: what the model can take.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a generated answer.")] = 256,
    out: Annotated[
        Path | None, typer.Option(help="Folder to create. Default: eval-SPLIT in the run, or beside the adapter.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results there.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Evaluate the base model, without the adapter.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
) -> None:
    """Score a run, an adapter or a model on tasks, with standard errors and intervals."""
    from rich.console import Console

    from multilora.commands.evaluate import EvalOptions, evaluate
    from multilora_cli.show_eval import show_eval

    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size)):
        raise typer.BadParameter(f"{batch_size!r} is neither auto nor a number of rows", param_hint="--batch-size")
    options = EvalOptions(
        tasks=[name.strip() for name in (tasks or "").split(",") if name.strip()],
        recipe=recipe,
        split=split.value,
        limit=limit,
        batch_size="auto" if batch_size == "auto" else int(batch_size),
        on_long_prompt=on_long_prompt.value,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        out=out,
        overwrite=overwrite,
        base=base,
        trust_remote_code=trust_remote_code,
    )
    console = Console()

    def note(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    show_eval(evaluate(target, options, note))


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
    out: Annotated[Path, typer.Option(help="Folder for analysis.json and analysis.parquet.")],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model, folder or hub id. Default: as the runs tell.")
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
) -> None:
    """Look at what training changed: spectra, subspaces, modules, mechanism. Goes on where it was interrupted."""
    from multilora.commands.analyze import AnalyzeOptions
    from multilora.commands.analyze import analyze as analyze_runs
    from multilora_cli.show_analysis import BarProgress, show_analysis

    options = AnalyzeOptions(base, reference, top, exact, precision.value, mechanism, intruders)
    try:
        report = analyze_runs(runs, out, options, BarProgress())
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on with the matrices that are left", err=True)
        raise typer.Exit(130) from None
    show_analysis(report)
    if report.faults:
        raise typer.Exit(1)
