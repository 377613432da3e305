"""The page's plots and the figures for papers show the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from multilora.report import static
from multilora.report.inputs import ReportInputs
from multilora.report.page import page
from multilora.report.page_data import PageData
from report.test_page import packed

CLOSE = 1e-3  # the page has four digits


@pytest.fixture(scope="module")
def plots(inputs: ReportInputs) -> dict[str, Any]:
    """What plotly draws, by figure."""
    return json.loads(packed(page(inputs, [], []), "data"))


@pytest.fixture(scope="module")
def drawn(inputs: ReportInputs) -> Callable[[str], Figure]:
    """A figure for papers."""
    data = PageData(inputs)

    def draw(name: str) -> Figure:
        with static._style():
            figure = static.FIGURES[name](data, 7.0)
        assert figure is not None
        return figure

    return draw


def lines(figure: Figure, panel: int) -> list[tuple[list[float], list[float]]]:
    """x and y of a panel's lines."""
    return [(list(of.get_xdata()), list(of.get_ydata())) for of in figure.axes[panel].get_lines()]


def test_energy_by_layer(plots: dict[str, Any], drawn: Callable[[str], Figure]) -> None:
    meshes = [c for axes in drawn("energy-by-layer").axes for c in axes.collections if isinstance(c, QuadMesh)]
    panels = plots["energy-map"]["views"]["1"]  # top 8
    assert len(panels) == len(meshes[: len(panels)]) == 3
    for panel, mesh in zip(panels, meshes, strict=False):
        (trace,) = panel["traces"]
        assert pytest.approx(mesh.get_array().filled(-1), rel=CLOSE) == 100 * np.array(trace["z"]).T


def test_similarity_by_rank_and_by_chance(plots: dict[str, Any], drawn: Callable[[str], Figure]) -> None:
    figure = drawn("subspace-by-rank")
    for number, panel in enumerate(plots["similarity-by-rank"]["views"]["0"]):
        found = lines(figure, number)
        assert len(found) == len(panel["traces"]) >= 3
        for (x, y), trace in zip(found, panel["traces"], strict=True):
            assert x == trace["x"]
            assert y == pytest.approx(trace["y"], rel=CLOSE)


def test_speed_and_memory_by_kind(plots: dict[str, Any], drawn: Callable[[str], Figure]) -> None:
    *_, last = plots["bench-speed"]["views"].values()
    for axes, panel in zip(drawn("speed").axes, last, strict=True):
        bars = [bar.get_width() for bar in axes.patches]
        assert bars == pytest.approx([trace["x"][0] for trace in panel["traces"]], rel=CLOSE)
    *_, (panel,) = plots["bench-memory"]["views"].values()
    figure = drawn("memory")
    sizes = [size for trace in panel["traces"][:-1] for size in trace["x"]]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx(sizes, rel=CLOSE)
    ((peaks, _),) = lines(figure, 0)
    assert peaks == pytest.approx(panel["traces"][-1]["x"], rel=CLOSE)


def test_growth_of_memory(plots: dict[str, Any], drawn: Callable[[str], Figure]) -> None:
    *_, panels = plots["bench-growth"]["views"].values()
    figure = drawn("memory-growth")
    for number, panel in enumerate(panels):
        found = lines(figure, number)
        assert len(found) == len(panel["traces"]) > 1
        for (x, y), trace in zip(found, panel["traces"], strict=True):
            assert x == pytest.approx(trace["x"], rel=CLOSE)
            assert y == pytest.approx(trace["y"], rel=CLOSE)
