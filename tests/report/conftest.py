"""Fixtures of the page's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multilora.report.inputs import ReportInputs, gather
from multilora.spectral.record import AnalysisRecord
from report.bench import bench_record
from report.browser import CHROMIUM, Chromium, chromium
from report.study import make_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, comparison/ and out/, as `make_study` makes them."""
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def inputs(study: Path) -> ReportInputs:
    """Of the study's page, with a bench."""
    data = AnalysisRecord.read(study / "out" / "analysis.json")
    return gather(data, [study / "comparison"], bench_record())


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium, which is not installed (Debian: apt install chromium)")
    with chromium() as process:
        yield process
