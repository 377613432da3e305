"""`multilora`: the commands' arguments and what they print. Heavy imports stand inside the commands.

Bad input (`multilora.errors.InputError`) is printed as one message and exits with code 2; any other exception is a
fault of the program and keeps its traceback.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from multilora_cli import adapters, analyzing, benching, data, evaluating, generating, training
from multilora_cli.training import is_main_process

app = typer.Typer(
    name="multilora",
    help="MultiLoRA: one adapter for many tasks. Train, export and look at MultiLoRA adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at a recipe's data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


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


for _command in (
    training.train,
    training.compare,
    training.plan,
    training.schema,
    adapters.export,
    adapters.merge,
    adapters.targets,
    analyzing.analyze,
    generating.generate,
    benching.bench,
):
    app.command()(_command)
app.command("eval")(evaluating.evaluate)
for _command in (data.check, data.preview):
    data_app.command()(_command)


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except Exception as error:
        # Known by name, not by import: importing `multilora` costs seconds and `--help` must not pay them.
        if any(kind.__module__ == "multilora.errors" for kind in type(error).__mro__):
            if not is_main_process():
                time.sleep(2)  # torchrun ends all processes when one has ended; the main one has to say why before
                sys.exit(2)
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            sys.exit(2)
        raise


if __name__ == "__main__":  # torchrun -m multilora_cli.main
    run()
