"""`multilora`: the commands' arguments and what they print. Heavy imports stand inside the commands.

Bad input (`multilora.errors.InputError`) is printed as one message and exits with code 2; any other exception is a
fault of the program and keeps its traceback.
"""

from __future__ import annotations

import sys
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
    for line in summary(result):
        typer.echo(line)


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


@app.command()
def targets(
    model: Annotated[str, typer.Argument(help="Folder of the model, or its id on the Hugging Face hub.")],
    every: Annotated[bool, typer.Option("--all", help="Print the full name of every layer instead.")] = False,
) -> None:
    """List the linear layers of a model, as target_modules can name them. Loads no weights."""
    from multilora.commands.targets import list_targets
    from multilora_cli.show import show_targets

    show_targets(list_targets(model), every)


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except Exception as error:
        # Known by name, not by import: importing `multilora` costs seconds and `--help` must not pay them.
        if any(kind.__module__ == "multilora.errors" for kind in type(error).__mro__):
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            sys.exit(2)
        raise
