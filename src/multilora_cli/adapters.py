"""`multilora export` and `targets`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """Names of the dtypes that tensors are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


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


def targets(
    model: Annotated[str, typer.Argument(help="Folder of the model, or its id on the Hugging Face hub.")],
    every: Annotated[bool, typer.Option("--all", help="Print the full name of every layer instead.")] = False,
) -> None:
    """List the linear layers of a model, as target_modules can name them. Loads no weights."""
    from multilora.commands.targets import list_targets
    from multilora_cli.show import show_targets

    show_targets(list_targets(model), every)
