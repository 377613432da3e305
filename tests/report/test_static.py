"""Figures for papers: which files there are, that names are only names, and that nothing is cut off."""

from __future__ import annotations

import copy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from multilora.report import static
from multilora.report.inputs import ReportInputs
from multilora.report.page_data import PageData
from multilora.report.paper_figures.style import power_of_ten
from multilora.report.series import spectra
from multilora.spectral.record import AnalysisRecord, Histogram, MatrixRecord, Spectrum
from report.bench import bench_record
from report.by_hand import analysed, analysis, without_full, zeroed
from report.hostile import hostile_bench

NAMES = list(static.FIGURES)


@pytest.fixture(scope="module")
def data(study: Path) -> AnalysisRecord:
    """Of a real analysis: full, LoRA and MultiLoRA, two seeds."""
    return AnalysisRecord.read(study / "out" / "analysis.json")


@pytest.fixture(scope="module")
def written(data: AnalysisRecord, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All figures."""
    return static.write_figures(tmp_path_factory.mktemp("figures") / "new" / "folder", data, bench_record())


def some(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Fewer figures, in one width, since they take time."""
    monkeypatch.setattr(static, "FIGURES", {name: static.FIGURES[name] for name in names})
    monkeypatch.setattr(static, "WIDTHS", {"single": 3.4})


def test_every_figure_is_written_for_one_column_and_for_two(written: list[Path]) -> None:
    folder = written[0].parent
    assert [path.name for path in written] == [
        f"{name}-{width}.{format}" for name in NAMES for width in ("single", "double") for format in ("png", "svg")
    ]
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    for path in written:
        inches = 3.4 if path.stem.endswith("single") else 7.0
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width == round(200 * inches)
                shown = np.asarray(image.convert("L"))
            assert (shown < 128).mean() > 0.005  # something is drawn
        else:
            root = ET.parse(path).getroot()
            assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * inches)


def test_the_same_data_gives_the_same_bytes(
    data: AnalysisRecord, written: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(monkeypatch, "subspace-by-rank", "memory-growth")
    mpl.rcParams["lines.linewidth"] = 9.0  # a user's own settings
    mpl.rcParams["svg.hashsalt"] = "other"
    before = dict(mpl.rcParams)
    try:
        again = static.write_figures(tmp_path, data, bench_record())
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcdefaults()
    assert len(again) == 4
    for path in again:
        assert path.read_bytes() == (written[0].parent / path.name).read_bytes()


def test_no_pyplot_is_involved(data: AnalysisRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some(monkeypatch, "mechanism")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    static.write_figures(tmp_path, data)
    assert "matplotlib.pyplot" not in sys.modules


def test_figures_that_an_analysis_cannot_have_are_not_written_and_earlier_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(monkeypatch, "subspace-grid", "subspace-by-rank", "modules", "mechanism", "speed")
    for name in ("subspace-grid-single.png", "modules-double.svg", "speed-single.png", "mine.png"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(static, "WIDTHS", {"single": 3.4, "double": 7.0})
    plain = without_full(analysis(1))
    plain["runs"] = {name: run for name, run in plain["runs"].items() if run["kind"] == "lora"}
    plain["matrices"] = [m | {"mechanism": None} for m in plain["matrices"] if m["run"] in plain["runs"]]
    assert static.write_figures(tmp_path, analysed(plain)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_a_fault_leaves_the_earlier_figures_as_they_were(
    data: AnalysisRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(monkeypatch, "subspace-by-rank")
    (tmp_path / "subspace-by-rank-single.png").write_text("old")

    def broken(page: PageData, width: float) -> None:
        raise RuntimeError("no figure")

    monkeypatch.setattr(static, "FIGURES", {**static.FIGURES, "modules": broken})
    with pytest.raises(RuntimeError, match="no figure"):
        static.write_figures(tmp_path, data)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("subspace-by-rank-single.png", "old")]


HOSTILE = {
    "full": r"$\frac{1}{$ full",
    "lora@24": "--></text><script>alert(1)</script>&amp;]]>",
    "multilora": "\x1b[31m\x00多\u202eLoRA\ud800\n_^ $x$ and a name that is much longer than any figure has room for",
    "q_proj": "<b>$q$</b>\x07 --> and a name that is much longer than a panel has room for",
}


def hostile() -> AnalysisRecord:
    """The analysis with other names for methods and one projection."""
    data = copy.deepcopy(analysis(2))
    for run in data["runs"].values():
        run["method"] = HOSTILE[run["method"]]
    for record in data["matrices"]:
        record["projection"] = HOSTILE.get(record["projection"], record["projection"])
    return AnalysisRecord.model_validate(data)


def test_names_are_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "WIDTHS", {"single": 3.4})
    written = static.write_figures(tmp_path, hostile(), hostile_bench(bench_record()))
    assert len(written) == 2 * len(NAMES)
    for path in written:
        if path.suffix == ".svg":
            tags = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
            assert "script" not in tags
            assert "<script" not in path.read_text(encoding="utf-8")
        else:
            with Image.open(path) as image:
                image.verify()


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_however_long_names_are(name: str, width: float) -> None:
    page = PageData(ReportInputs(data=hostile(), bench=hostile_bench(bench_record())))
    with static._style():
        figure = static.FIGURES[name](page, width)
        assert figure is not None
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
    assert drawn.x0 >= -0.02
    assert drawn.y0 >= -0.02
    assert drawn.x1 <= width + 0.02
    assert drawn.y1 <= figure.get_figheight() + 0.02


@pytest.mark.parametrize("method", ["multilora", "lora@24", "full"])
def test_zero_delta_weights_are_drawn_as_nothing(method: str) -> None:
    page = PageData(ReportInputs(data=analysed(zeroed(analysis(1), method)), bench=bench_record()))
    with static._style():
        drawn = {name: figure for name, draw in static.FIGURES.items() if (figure := draw(page, 3.4)) is not None}
        drawn["spectra-curves"].draw_without_rendering()
    gone = {"modules"} if method == "multilora" else set[str]()
    assert set(drawn) == set(NAMES) - gone


def test_the_mean_curve_is_the_geometric_mean_where_all_have_values() -> None:
    def record(index: list[int], sigma: list[float]) -> MatrixRecord:
        rank = index[-1] + 1 if index else 0
        spectrum = Spectrum(size=9, rank=rank, index=tuple(index), sigma=tuple(sigma))
        return MatrixRecord.model_construct(spectrum=spectrum)

    one, two = record([0, 1, 2], [4.0, 2.0, 1.0]), record([0, 1, 2, 3], [1.0, 0.5, 0.25, 0.1])
    index, sigma = spectra.mean_curve([one, two, record([], [])])
    assert index.tolist() == [0, 1, 2]
    assert sigma == pytest.approx([2.0, 1.0, 0.5])
    index, sigma = spectra.mean_curve([one, record([0, 2], [4.0, 1.0])])  # between points, on the logarithmic scale
    assert sigma == pytest.approx([4.0, 2.0, 1.0])
    assert spectra.mean_curve([record([], [])])[0].size == 0


def test_the_mean_histogram_adds_bins_by_their_place() -> None:
    def record(first: int, counts: list[int]) -> MatrixRecord:
        return MatrixRecord.model_construct(histogram=Histogram(first=first, counts=tuple(counts), zeros=0))

    first, counts = spectra.mean_histogram([record(-3, [1, 2]), record(-2, [4, 0, 6]), record(0, [])])
    assert first == -3
    assert counts == pytest.approx([1 / 3, 2, 0, 2])
    assert spectra.mean_histogram([record(0, [])])[1].size == 0


def test_powers_of_ten_are_written_without_markup() -> None:
    assert [power_of_ten(value) for value in (1e-12, 1.0, 1e3)] == ["10⁻¹²", "10⁰", "10³"]
