"""`multilora`: the commands' arguments and what they print. Heavy imports stand inside the commands.

Bad input (`multilora.errors.InputError`) is printed as one message and exits with code 2; any other exception is a
fault of the program and keeps its traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
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
