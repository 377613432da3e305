"""`multilora generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from multilora.evaluation.generate import Generated


def generate(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="Run folders, folders with an adapter or a model, or hub ids."),
    ],
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="May be repeated.")] = None,
    file: Annotated[Path | None, typer.Option(help="A prompt per line; .jsonl: objects with a field `prompt`.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Names an adapter's base model. Default: the adapter does.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="The base models' answers, too.")] = False,
    merged: Annotated[
        bool, typer.Option("--merged", help="Those of the merged models, too: loads them twice.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's turn in the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens with this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling, the same for every answer.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the answers to this file, as JSON lines.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
) -> None:
    """Let runs, adapters and models answer prompts, side by side, token by token."""
    from rich.console import Console

    from multilora.evaluation.generate import GenerateOptions, read_prompts
    from multilora.evaluation.generate import generate as generate_answers

    options = GenerateOptions(
        recipe=recipe,
        base=base,
        merged=merged,
        chat=chat,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        out=out,
        trust_remote_code=trust_remote_code,
    )
    display = _Display(Console(highlight=False), Console(stderr=True, highlight=False))
    try:
        generate_answers(targets, read_prompts(prompt or [], file), options, display)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


class _Display:
    def __init__(self, out: Console, err: Console) -> None:
        self._out, self._err = out, err

    def note(self, text: str) -> None:
        self._err.print(text, style="dim", markup=False, soft_wrap=True)

    def prompt(self, number: int, count: int, text: str) -> None:
        self._out.rule(f"prompt {number} of {count}" if count > 1 else "prompt", align="left", characters="─")
        self._out.print(text, markup=False, soft_wrap=True)

    def model(self, name: str) -> None:
        self._out.print(f"\n{name}", style="bold cyan", markup=False, soft_wrap=True)

    def piece(self, text: str) -> None:
        self._out.print(text, end="", markup=False, soft_wrap=True)
        self._out.file.flush()

    def end(self, answer: Generated) -> None:
        self._out.print("" if answer.ended else " […]", style="dim", markup=False)
