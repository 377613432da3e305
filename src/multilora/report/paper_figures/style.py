"""What the figures for papers share: colours, panels, ticks, keys and captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multilora.report.markup import printable
from multilora.report.numbers import counted
from multilora.report.page_data import PageData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can distinguish, with grey for its yellow, which is pale in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DASHES: Sequence[Any] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "X", "*", "P")
GREY = "#8C8C8C"
SMALL = 7  # points
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
    "font.size": SMALL,
    "axes.titlesize": SMALL,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "text.parse_math": False,  # a method's name with dollar signs is a name
    "svg.hashsalt": "multilora",
}


def is_wide(width: float) -> bool:
    """The figure is for two columns."""
    return width > 5


def cut(text: str, limit: int = 28) -> str:
    """Text from data on one line that is not too long."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def label(page: PageData, series: int) -> str:
    """What a series is called."""
    return cut(page.lineup.labels[series])


def line(series: int) -> dict[str, Any]:
    """Colour, dash and marker of a series."""
    return {
        "color": _nth(COLOURS, series),
        "linestyle": _nth(DASHES, series),
        "marker": _nth(MARKERS, series),
    }


def _nth(values: Sequence[Any], number: int) -> Any:
    return next(islice(cycle(values), number, None))


def averaged(page: PageData) -> str:
    """Over what the means go: 5 blocks, 3 seeds."""
    return f"{counted(len(page.blocks), 'block')}, {seeds(page)}"


def seeds(page: PageData) -> str:
    """Of how many seeds."""
    return counted(max((len(page.lineup.averaged(series)) for series in page.series()), default=0), "seed")


def block_names(page: PageData) -> list[str]:
    """The blocks' numbers; what lies outside of them has a dash."""
    return [block if block.isdecimal() else "–" for block in page.blocks]


def figure_of(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid_of(
    width: float, count: int, columns: int, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with panels row by row.

    Args:
        width: of the figure in inches.
        count: of the panels.
        columns: panels beside one another.
        height: of a panel in inches.
        sharex, sharey: all panels have the same axis.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = figure_of(width, rows * height + 0.65)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)
    for unused in axes[count:]:
        unused.remove()
    for lowest in axes[max(0, count - columns) : count]:
        lowest.tick_params(labelbottom=True)
    return figure, axes[:count]


def label_lowest(axes: Sequence[Axes], columns: int, text: str) -> None:
    """Name the x-axis once in each column of a grid."""
    for lowest in axes[-columns:]:
        lowest.set_xlabel(text)


def heat(axes: Axes, values: NDArray[np.float64], limits: tuple[float, float]) -> QuadMesh:
    """A heat map of (rows, columns), in which cells without a value are grey."""
    axes.set_facecolor("#DDDDDD")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), vmin=limits[0], vmax=limits[1], cmap="viridis", edgecolors="white", linewidth=0.3
    )
    mesh.set_snap(True)
    return mesh


def colour_bar(figure: Figure, mesh: QuadMesh, axes: Iterable[Axes], text: str) -> None:
    """The key to a heat map's colours."""
    bar = figure.colorbar(mesh, ax=list(axes), aspect=20, pad=0.02)
    bar.set_label(text)
    bar.outline.set_visible(False)


def ticks(axes: Axes, which: str, names: Sequence[str], most: int = 64, centre: float = 0.5) -> None:
    """Names along an axis, one a cell; where there are more than `most`, every second, fifth or tenth."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, len(names)) if len(names) <= most * step)
    places = range(0, len(names), step)
    set_ticks = axes.set_xticks if which == "x" else axes.set_yticks
    set_ticks([place + centre for place in places], [cut(names[place], 20) for place in places])


def decades(axes: Axes, which: str = "y") -> None:
    """Powers of ten along a logarithmic axis, in characters; where there are few, numbers between them too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    span = np.log10(high / low) if low > 0 else 0.0
    few = span < 2.2  # then powers of ten alone would not show the scale
    steps = (1.0,) if not few else (1.0, 3.0) if span > 1.2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=steps, numticks=5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if few else power_of_ten(value)))


def power_of_ten(value: float) -> str:
    """10⁻³ in characters."""
    return f"10{str(round(np.log10(value))).translate(_SUPERSCRIPTS)}" if value > 0 else "0"


def plain_powers(axes: Axes, ranks: Sequence[int]) -> None:
    """The ranks themselves along the x-axis."""
    from matplotlib.ticker import NullLocator

    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ranks), [str(rank) for rank in ranks])


def legend(
    figure: Figure,
    page: PageData,
    shown: Sequence[int],
    width: float,
    extra: Iterable[tuple[str, Mapping[str, Any]]] = (),
    **changes: Any,
) -> None:
    """The key below the panels.

    Args:
        figure: to which it belongs.
        page: of the figure.
        shown: the series.
        width: of the figure in inches.
        extra: further entries and their style.
        changes: of the series' style.
    """
    from matplotlib.lines import Line2D

    entries = [*((label(page, series), line(series) | changes) for series in shown), *extra]
    longest = max(len(name) for name, _ in entries)
    columns = max(1, min(len(entries), int(width / (0.55 + 0.062 * longest))))
    handles = [Line2D([], [], **style) for _, style in entries]
    figure.legend(handles, [name for name, _ in entries], loc="outside lower center", ncols=columns)


def above(figure: Figure, text: str) -> None:
    """What is shown, above the panels."""
    figure.suptitle(text, size=SMALL, wrap=True)
