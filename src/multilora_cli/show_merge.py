"""What `multilora merge` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from multilora_cli.tables import new_console, new_table, size

if TYPE_CHECKING:
    from multilora.merging.report import MergeReport
    from multilora.merging.verify import Verification
    from multilora.storage.rounding import TensorRounding


@dataclass(frozen=True)
class KindRounding:
    """The error of rounding of all tensors of a kind, such as every block's q_proj.

    Attributes:
        kind: their name with the blocks' numbers as `*`.
        count: how many they are.
        largest: max |M − (W + ΔW)| of all.
        relative: the worst tensor's ‖M − (W + ΔW)‖_F / ‖W + ΔW‖_F.
        relative_to_delta: the worst tensor's ‖M − (W + ΔW)‖_F / ‖ΔW‖_F; None if no adapter changes them.
        lost: the worst tensor's share of entries that ΔW did not change; None as above.
    """

    kind: str
    count: int
    largest: float
    relative: float
    relative_to_delta: float | None
    lost: float | None


def show_merge(report: MergeReport, verification: Verification | None) -> None:
    """The errors of rounding by kind of layer, what was written and how fast, how to load it, what was compared."""
    console = new_console()
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
    table = new_table(
        "", "tensors", "largest", "% of W + ΔW", "% of ΔW", "% of ΔW's entries lost",
        title="error of rounding M = round(W + ΔW), the worst of each kind (merge_report.json has every layer)",
    )  # fmt: skip
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


def rounding_by_kind(rounding: Sequence[TensorRounding]) -> list[KindRounding]:
    """The tensors by kind, in the order of the first of each by name."""
    from multilora.storage.safetensors import natural_order

    kinds: dict[str, list[TensorRounding]] = {}
    for entry in sorted(rounding, key=lambda entry: natural_order(entry.name)):
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", entry.name.removesuffix(".weight")), []).append(entry)
    return [
        KindRounding(
            kind,
            len(entries),
            max(entry.largest for entry in entries),
            max(entry.relative for entry in entries),
            _worst([entry.relative_to_delta for entry in entries]),
            _worst([entry.lost for entry in entries]),
        )
        for kind, entries in kinds.items()
    ]


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
