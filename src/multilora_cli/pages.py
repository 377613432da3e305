"""The page and the figures of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multilora.bench.record import BenchRecord
    from multilora.spectral.analyze import AnalyzeReport


def write_analysis_page(report: AnalyzeReport, targets: Sequence[str], bench: BenchRecord | None = None) -> Path:
    """Write figures/ and report.html beside an analysis. Returns the page.

    Args:
        report: the analysis.
        targets: the folders that were analysed.
        bench: what methods cost; None if not measured.
    """
    from multilora.report.page import REPORT_FILE, report_on
    from multilora.report.static import write_figures

    page = report.folder / REPORT_FILE
    write_figures(report.folder / "figures", report.record, bench)
    report_on(page, report.record, [Path(target) for target in targets], bench, report.sources)
    return page
