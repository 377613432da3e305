"""`multilora`: the commands' arguments and what they print. Heavy imports stand inside the commands.

Bad input (`multilora.errors.InputError`) is printed as one message and exits with code 2; any other exception is a
fault of the program and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
import time
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="multilora",
    help="MultiLoRA: one adapter for many tasks. Train, export and look at MultiLoRA adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at a recipe's data before training on it.", no_args_is_help=True)
app.add_typer(data, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"multilora {installed_version('multilora')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """MultiLoRA: one adapter for many tasks."""


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a YAML file. `multilora schema` describes it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: training.steps=10. May be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of this recipe.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
) -> None:
    """Train a recipe into a run folder."""
    from rich.console import Console

    from multilora.commands.train import summary, train_recipe

    try:
        result = train_recipe(recipe, overrides or [], resume, overwrite, Console())
    except KeyboardInterrupt:
        typer.echo("interrupted; --resume goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    if _is_main_process():
        for line in summary(result):
            typer.echo(line)


@app.command()
def compare(
    recipe: Annotated[Path, typer.Argument(help="The recipe; its section `comparison` says what is compared.")],
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated: full, lora@24, multilora, multilora@3x8:scaling=scalar.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds each method is trained with.")] = None,
    regimes: Annotated[
        str | None, typer.Option(help="mixed (one adapter for all tasks), single (one for each), or mixed,single.")
    ] = None,
    lr_sweep: Annotated[
        str | None,
        typer.Option(help="Comma-separated learning rates to try on validation rows, for every method alike."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Test rows per task. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The comparison's folder. Default: beside the recipe's output.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, as for train.")
    ] = None,
) -> None:
    """Train and test a recipe with several methods and seeds, and print one table. Goes on where it was interrupted."""
    from rich.console import Console

    from multilora.commands.compare import CompareOptions, compare, failed_lines
    from multilora.comparison.progress import progress_for
    from multilora_cli.show_compare import show_comparison

    options = CompareOptions(
        methods=_listed(methods),
        seeds=seeds,
        regimes=_listed(regimes),
        learning_rates=_numbers("--lr-sweep", lr_sweep),
        limit=limit,
        out=out,
    )
    try:
        comparison = compare(recipe, overrides or [], options, progress_for(Console()))
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on with the cells that are left", err=True)
        raise typer.Exit(130) from None
    show_comparison(comparison)
    for line in failed_lines(comparison.failures):
        typer.secho(f"failed: {line}", fg=typer.colors.RED, err=True)
    if comparison.failures:
        raise typer.Exit(1)


def _listed(text: str | None) -> list[str] | None:
    """Comma-separated names; a comma inside a method's options belongs to them."""
    import re

    return None if text is None else [name.strip() for name in re.split(r",(?![\w]+=)", text) if name.strip()]


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option}: comma-separated numbers, such as 1e-3,3e-3; got {text!r}") from None


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: hardware.devices=8. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes.")] = False,
) -> None:
    """Reckon a recipe's parameters and memory, and whether it fits. Reads no weights and no data."""
    import json

    from multilora.commands.plan import plan_recipe
    from multilora_cli.show_plan import show_plan

    planned = plan_recipe(recipe, overrides or [])
    if as_json:
        typer.echo(json.dumps(planned.facts(), indent=2, ensure_ascii=False))
    else:
        show_plan(planned)


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe: every key, its type, default and meaning."""
    from multilora.commands.train import schema

    typer.echo(schema())


class Dtype(StrEnum):
    """Names of the dtypes that tensors are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@app.command()
def export(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter, as save_pretrained or `train` wrote it.")],
    out: Annotated[Path, typer.Argument(help="Folder to create for the plain LoRA.")],
    rank: Annotated[
        int | None,
        typer.Option(help="Truncate to the best approximation of this rank and print what it costs. Default: exact."),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the stored numbers. Default: the adapter's own.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that OUT holds.")] = False,
) -> None:
    """Write an adapter as a plain LoRA that PEFT, vLLM, SGLang and llama.cpp load without multilora."""
    from multilora.convert import export_lora
    from multilora_cli.show import show_export

    show_export(export_lora(adapter, out, rank=rank, dtype=dtype, overwrite=overwrite))


class Split(StrEnum):
    """Names of the splits to evaluate on."""

    TEST = "test"
    VALIDATION = "validation"


class LongPrompt(StrEnum):
    """What may be done with a prompt that does not fit."""

    DROP = "drop"
    TRUNCATE_LEFT = "truncate_left"
    FAIL = "fail"


@app.command("eval")
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


@app.command()
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


@app.command()
def targets(
    model: Annotated[str, typer.Argument(help="Folder of the model, or its id on the Hugging Face hub.")],
    every: Annotated[bool, typer.Option("--all", help="Print the full name of every layer instead.")] = False,
) -> None:
    """List the linear layers of a model, as target_modules can name them. Loads no weights."""
    from multilora.commands.targets import list_targets
    from multilora_cli.show import show_targets

    show_targets(list_targets(model), every)


@data.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: tasks.a.folder=there. May be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every row, not only the first of each pair.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every row.")] = False,
) -> None:
    """Find evaluation rows that occur in training. Exit code 1 if there are any, 2 if a split could not be read."""
    import json

    from multilora.commands.data import check_facts, check_recipe
    from multilora_cli.show_data import show_check

    report = check_recipe(recipe, overrides or [])
    if as_json:
        typer.echo(json.dumps(check_facts(report), indent=2, ensure_ascii=False))
    else:
        show_check(report, every)
    for line in report.unread:
        typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1 if report.leaks else 2 if report.unread else 0)


@data.command()
def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: training.steps=10. May be repeated."),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples of each task to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole samples.")] = False,
) -> None:
    """Show what a recipe trains on: sizes, lengths, shares, epochs, samples. Loads no weights."""
    import json

    from rich.console import Console

    from multilora.commands.preview import preview_recipe
    from multilora_cli.show_data import show_preview

    with Console(stderr=True).status("reading and encoding the tasks"):
        found = preview_recipe(recipe, overrides or [], samples)
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=2, ensure_ascii=False))
    else:
        show_preview(found)


def _is_main_process() -> bool:
    """Of those that torchrun started; the only one without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except Exception as error:
        # Known by name, not by import: importing `multilora` costs seconds and `--help` must not pay them.
        if any(kind.__module__ == "multilora.errors" for kind in type(error).__mro__):
            if not _is_main_process():
                time.sleep(2)  # torchrun ends all processes when one has ended; the main one has to say why before
                sys.exit(2)
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            sys.exit(2)
        raise


if __name__ == "__main__":  # torchrun -m multilora_cli.main
    run()
