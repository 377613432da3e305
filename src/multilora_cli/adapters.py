"""`multilora export`, `merge` and `targets`."""

from __future__ import annotations

import ast
import signal
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer


class Dtype(StrEnum):
    """Names of the dtypes that tensors are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


_DEFAULT_FORMAT = "peft"


def _formats() -> dict[str, str]:
    """Name and help text of every export format, the default first, without importing `multilora` (seconds)."""
    package = find_spec("multilora")
    if package is None or package.origin is None:
        raise AssertionError("the console script is installed with the package")
    files = sorted((Path(package.origin).parent / "adapter" / "export").glob("[!_]*.py"))
    files.sort(key=lambda file: file.stem != _DEFAULT_FORMAT)
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text.partition("\n")[0].removesuffix(".") for name, text in texts.items()}


_FORMATS = _formats()
_FORMATS_HELP = "; ".join(f"{name}: {text[:1].lower()}{text[1:]}" for name, text in _FORMATS.items()) + "."
if TYPE_CHECKING:
    Format = str
else:
    Format = StrEnum("Format", {name.upper(): name for name in _FORMATS})
_DEFAULT = Format(_DEFAULT_FORMAT)


def export(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter, as save_pretrained or `train` wrote it.")],
    out: Annotated[Path, typer.Argument(help="Folder to create for the exported adapter.")],
    form: Annotated[Format, typer.Option("--format", help=_FORMATS_HELP)] = _DEFAULT,
    rank: Annotated[
        int | None,
        typer.Option(help="Truncate to the best approximation of this rank and print what it costs. Default: exact."),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the stored numbers. Default: the adapter's own.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model, for mlx. Default: as the adapter names it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that OUT holds.")] = False,
) -> None:
    """Write an adapter as a plain LoRA (or for MLX) that PEFT, vLLM, SGLang and llama.cpp load without multilora."""
    from multilora.adapter.export import FORMATS
    from multilora.adapter.exporting import export_as
    from multilora.errors import InputError
    from multilora.runs.find import Adapter
    from multilora_cli.show import show_export

    if base is not None and not FORMATS[form].reads_base:
        readers = ", ".join(name for name, one in FORMATS.items() if one.reads_base)
        raise InputError(f"--base is read for --format {readers}; a {FORMATS[form].title} needs none. Leave it out")
    report = export_as(FORMATS[form], adapter, out, base=base, rank=rank, dtype=dtype, overwrite=overwrite)
    show_export(report, FORMATS[form])
    if bits := Adapter(adapter).trained_bits():
        typer.echo(
            f"\nnote: the adapter was trained on its base model in {bits} bits; on the unquantised one, or on one that "
            "is quantised otherwise, logits differ: compare them before serving (docs/quantization.md)"
        )


def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base model: a folder, or an id on the hub.")],
    adapters: Annotated[list[Path], typer.Argument(metavar="ADAPTER...", help="Folders of adapters (PEFT LoRA too).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create for the merged model.")],
    weights: Annotated[
        str | None, typer.Option(help="Comma-separated, one per adapter: the factor of its ΔW. Default: 1 for all.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the merged model. Default: every tensor keeps the base model's.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare logits with the adapted model's; takes memory for one model in fp32."),
    ] = False,
    report: Annotated[bool, typer.Option(help="Measure the error of rounding of every layer.")] = True,
    untie: Annotated[
        bool, typer.Option("--untie", help="Write embeddings and output layer apart where an adapter changes one.")
    ] = False,
    ignore_base_names: Annotated[
        bool, typer.Option("--ignore-base-names", help="The adapters' different base models are one under two names.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a merged model that OUT holds.")] = False,
) -> None:
    """Add adapters to a base model's weights, file by file. Resumes where it was interrupted."""
    from multilora.merging.merge_and_verify import merge as merge_models
    from multilora.merging.options import MergeOptions
    from multilora_cli.progress import merge_bar
    from multilora_cli.show_merge import show_merge

    def end(*_: object) -> NoReturn:
        raise SystemExit

    options = MergeOptions(weights_of(weights), dtype and dtype.value, report, untie, ignore_base_names, overwrite)
    before = signal.signal(signal.SIGTERM, end)
    try:
        merged, verification = merge_models(base, adapters, out, options, merge_bar(), check=verify)
    except (KeyboardInterrupt, SystemExit) as stopped:
        typer.echo("interrupted; run the same command again to continue with the remaining files", err=True)
        number = signal.SIGTERM if isinstance(stopped, SystemExit) else signal.SIGINT
        raise typer.Exit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    show_merge(merged, verification)
    if verification is not None and not verification.passed:
        raise typer.Exit(1)


def weights_of(text: str | None) -> tuple[float, ...] | None:
    """ "0.7,0.3" → (0.7, 0.3).

    Raises:
        InputError: a part is no number.
    """
    from multilora.errors import InputError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--weights {text!r}: give one number per adapter, with commas: 0.7,0.3") from error


def targets(
    model: Annotated[str, typer.Argument(help="Folder of the model, or its id on the Hugging Face hub.")],
    every: Annotated[bool, typer.Option("--all", help="Print the full name of every layer instead.")] = False,
) -> None:
    """List the linear layers of a model, as target_modules can name them. Loads no weights."""
    from multilora.base.targets import list_targets
    from multilora_cli.show import show_targets

    show_targets(list_targets(model), every)
