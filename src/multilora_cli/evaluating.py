"""`multilora eval`."""

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

    from multilora.evaluation.evaluate import EvalOptions, evaluate
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
