"""What `multilora merge` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from multilora_cli.show import size

if TYPE_CHECKING:
    from multilora.merging.report import MergeReport
    from multilora.merging.verify import Verification
    from multilora.storage.rounding import TensorRounding


class MergeBar:
    """A `MergeProgress` as a bar that goes away at the end."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("merging"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, size: int, done: int) -> None:
        self._bar.update(self._task, total=size, completed=done)
        self._bar.start()

    def advance(self, size: int) -> None:
        self._bar.update(self._task, advance=size)

    def stop(self) -> None:
        self._bar.stop()


def show_merge(report: MergeReport, verification: Verification | None) -> None:
    """The errors of rounding by kind of layer, what was written and how fast, how to load it, what was compared."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a pipe or a file has no width of its own
    if report.rounding and any(entry.largest for entry in report.rounding):
        _show_rounding(console, report.rounding)
    verb = "already merged" if report.complete_before else "merged"
    console.print(f"[bold green]{verb}[/] {escape(str(report.out_dir))}", soft_wrap=True)
    files = f"{len(report.shards)} {'file' if len(report.shards) == 1 else 'files'}"
    console.print(
        f"  {report.adapted} tensors changed, {report.copied} copied; {', '.join(report.dtypes)}, {size(report.size)} "
        f"in {files}",
        soft_wrap=True,
    )
    if report.rounding and not any(entry.largest for entry in report.rounding):
        console.print("  nothing is rounded: the sum is as exact as what it is stored in")
    if report.written:
        rate = f"{report.written / max(report.seconds, 1e-9) / 1e9:.2f} GB/s"
        extra = f", and {report.rounding_seconds:.1f} s for the errors of rounding" if report.rounding else ""
        console.print(f"  {size(report.written)} in {report.seconds:.1f} s ({rate}){extra}", soft_wrap=True)
    console.print("\nload it with transformers (multilora need not be installed):")
    console.print(
        f"  model = AutoModelForCausalLM.from_pretrained({escape(repr(str(report.out_dir)))})",
        style="cyan",
        soft_wrap=True,
    )
    if verification is not None:
        _show_verification(console, verification)


def _show_rounding(console: Console, rounding: tuple[TensorRounding, ...]) -> None:
    from multilora.merging.merge_and_verify import rounding_by_kind

    table = Table(
        box=box.SIMPLE_HEAD,
        title="error of rounding M = round(W + ΔW), the worst of each kind (merge_report.json has every layer)",
        title_justify="left",
        title_style="",
        pad_edge=False,
    )
    table.add_column("", style="bold", overflow="fold")
    for heading in ("tensors", "largest", "% of W + ΔW", "% of ΔW", "% of ΔW's entries lost"):
        table.add_column(heading, justify="right", overflow="fold")
    for kind in rounding_by_kind(rounding):
        table.add_row(
            escape(kind.kind), str(kind.count), f"{kind.largest:.2g}", f"{100 * kind.relative:.3g}",
            *("" if value is None else f"{100 * value:.3g}" for value in (kind.relative_to_delta, kind.lost)),
        )  # fmt: skip
    console.print(table)


def _show_verification(console: Console, found: Verification) -> None:
    bound = "" if found.tolerance is None else f" (at most {found.tolerance:.2g})"
    verdict = "[bold green]verified[/]" if found.passed else "[bold red]not the same[/]"
    console.print(
        f"\n{verdict}: logits differ from the adapted model's by {found.difference:.2g} of the largest{bound}; the "
        f"likeliest token is the same at {found.same_top:.1%} of {found.positions} positions (random tokens, fp32)",
        soft_wrap=True,
    )
