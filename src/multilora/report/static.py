"""The figures of an analysis and of a bench as files for papers: PNG and SVG, for one column and for two."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from multilora.bench.record import BenchRecord
from multilora.report.inputs import ReportInputs
from multilora.report.page_data import PageData
from multilora.report.paper_figures.costs import memory, memory_growth, speed
from multilora.report.paper_figures.relations import mechanism, modules, subspace_by_rank, subspace_grid
from multilora.report.paper_figures.spectra import layer_map, spectra_curves, spectra_histograms
from multilora.report.paper_figures.style import STYLE
from multilora.spectral.measures import layer_maps
from multilora.spectral.record import AnalysisRecord
from multilora.storage.folders import sync

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"single": 3.4, "double": 7.0}  # inches, of a column and of a page
FORMATS = ("png", "svg")
DPI = 200

# By the files' names. Each takes the page and the width in inches; None: there is nothing to plot.
FIGURES: Mapping[str, Callable[[PageData, float], Figure | None]] = {
    "spectra-curves": spectra_curves,
    "spectra-histograms": spectra_histograms,
    **{
        of.file: partial(layer_map, next((m for m in measures if m.key == of.drawn), measures[0]))
        for of, measures in layer_maps().items()
    },
    "subspace-grid": subspace_grid,
    "subspace-by-rank": subspace_by_rank,
    "modules": modules,
    "mechanism": mechanism,
    "speed": speed,
    "memory": memory,
    "memory-growth": memory_growth,
}


def write_figures(folder: Path, data: AnalysisRecord | None, bench: BenchRecord | None = None) -> list[Path]:
    """Write all figures that there are numbers for, each as NAME-WIDTH.FORMAT.

    A figure is complete or as it was; earlier ones that these numbers cannot have are removed, other files
    stay. The same data gives the same bytes. matplotlib's settings are changed meanwhile, for the whole process.

    Args:
        folder: for the figures; it is created.
        data: the analysis; None if nothing was analysed.
        bench: what methods cost; None if not measured.

    Returns:
        The files, figure by figure.
    """
    page = PageData(ReportInputs(data=data, bench=bench))
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with TemporaryDirectory(dir=folder, prefix=".", suffix=".incomplete") as aside, _style():
        for name, draw in FIGURES.items():
            for width, inches in WIDTHS.items():
                if (figure := draw(page, inches)) is not None:
                    made += _save(figure, Path(aside), f"{name}-{width}")
        for path in made:
            path.replace(folder / path.name)
    found = [folder / path.name for path in made]
    for name in FIGURES:
        for stale in {folder / f"{name}-{width}.{format}" for width in WIDTHS for format in FORMATS} - set(found):
            stale.unlink(missing_ok=True)
    sync(folder)
    return found


@contextmanager
def _style() -> Generator[None]:
    """matplotlib with the settings of these figures and no others, such as those of the user's own file."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(dict[Any, Any](STYLE))
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in another script
        yield


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = (folder / f"{name}.{format}" for format in FORMATS)
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found once, for both formats
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    for path in (png, svg):
        sync(path)
    return [png, svg]
