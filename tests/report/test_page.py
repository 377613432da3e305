"""The page as a file: complete, small, closed to the network, and honest about what is left out."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multilora.bench.record import BenchRecord
from multilora.evaluation.saved import EvaluationResults
from multilora.report.claims import Claim
from multilora.report.inputs import ReportInputs, gather
from multilora.report.lineup import Lineup
from multilora.report.page import page, report_on, write_report
from multilora.report.run_record import RunRecord
from multilora.runs.records import RunResults
from multilora.spectral.record import AnalysisRecord
from report.bench import BATCH, PER_RANK, bench_content, bench_record
from report.hostile import hostile
from report.llama import large_analysis
from report.study import run_results, scored
from report.test_markup import Reader

ORDER = [
    "summary", "claims", "trained", "results", "losses", "spectra", "energy", "subspaces", "modules", "mechanism",
    "merging", "resources", "about",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(inputs: ReportInputs) -> str:
    return page(inputs, [Claim("c", "Text.", "section 1", "not held", "0.1 against 0.2")], ["A sentence."])


def packed(text: str, id: str) -> str:
    """The content of one of the page's compressed parts."""
    found = re.search(rf'<script type="text/plain" id="{id}">([A-Za-z0-9+/=]*)</script>', text)
    assert found
    return gzip.decompress(base64.b64decode(found[1])).decode()


def left_out(text: str) -> dict[str, str]:
    """Reasons by section."""
    sections = re.findall(r'<section id="(\w+)"[^>]*>(.*?)</section>', text, re.DOTALL)
    found = {id: re.search(r"<strong>Left out: </strong>(.*?)</p>", body) for id, body in sections}
    return {id: match[1] for id, match in found.items() if match}


def test_sections_are_all_there_in_order(whole: str) -> None:
    assert re.findall(r'<section id="(\w+)"', whole) == ORDER
    assert [link for link in re.findall(r'<a href="#(\w+)"', whole) if link in ORDER] == ORDER
    assert left_out(whole) == {}


def test_nothing_is_loaded_and_only_the_pages_own_scripts_run(whole: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', whole)
    allowed = re.findall(r"sha256-([\w+/=]+)", policy)
    script = re.findall(r"<script>(.*?)</script>", whole, re.DOTALL)
    plotly = packed(whole, "plotly")
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*script, plotly)]
    assert allowed == digests
    assert policy.startswith("default-src &#x27;none&#x27;; script-src ")
    assert "unsafe-eval" not in policy
    assert re.findall(r"""(?:src|href|action|srcset)=["'](?!#|data:,)""", whole.partition("<script>")[0]) == []
    assert "url(" not in whole
    assert "@import" not in whole


def test_every_figure_has_data_a_plot_and_a_table(whole: str) -> None:
    data: dict[str, Any] = json.loads(packed(whole, "data"))
    figures = re.findall(r'<figure id="([\w-]+)".*?</figure>', whole, re.DOTALL)
    assert list(data) == figures
    for match in re.finditer(r'<figure id="([\w-]+)".*?</figure>', whole, re.DOTALL):
        figure, body = data[match[1]], match[0]
        most = max(len(panels) for panels in figure["views"].values())
        assert body.count('role="img"') == most
        first = figure["views"]["|".join(map(str, figure["first"]))]
        for panel in first:
            assert panel["alt"] in Reader(body.replace("aria-label", "title")).text + str(Reader(body).tags)
        assert "<td" in body


def test_curves_have_the_spectra_with_four_digits(inputs: ReportInputs, whole: str) -> None:
    views = json.loads(packed(whole, "data"))["spectrum"]["views"]
    assert inputs.data is not None
    places = {(m.run, m.block, m.projection): m for m in inputs.data.matrices}
    for key, panels in views.items():
        seed, block, projection = map(int, key.split("|"))
        curves, histograms = panels[0]["traces"], panels[1]["traces"]
        names = ["full", "lora@4", "multilora"]
        order = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        assert [curve["s"] for curve in curves] == [0, 1, 2]
        for name, curve, histogram in zip(names, curves, histograms, strict=True):
            matrix = places[f"{name} seed {seed}", block, order[projection]]
            assert curve["y"] == pytest.approx(matrix.spectrum.sigma, rel=1e-3)
            assert curve["x"] == [index + 1 for index in matrix.spectrum.index]
            assert sum(histogram["customdata"]) == matrix.spectrum.rank
            assert sum(histogram["y"]) == pytest.approx(100, abs=0.5)


def test_averages_are_over_matrices_and_seeds(inputs: ReportInputs, whole: str) -> None:
    assert inputs.data is not None
    values = [
        m.measures["energy_share_1"]
        for m in inputs.data.matrices
        if m.run.startswith("lora@4") and (m.block, m.projection) == (1, "up_proj")
    ]
    panel = json.loads(packed(whole, "data"))["energy-map"]["views"]["0"][1]
    (trace,) = panel["traces"]
    found = trace["z"][trace["y"].index("1")][trace["x"].index("up_proj")]
    assert len(values) == 2
    assert found == pytest.approx(sum(values) / 2, rel=1e-3)


def test_without_results_the_sections_are_left_out_with_a_reason(inputs: ReportInputs) -> None:
    text = page(ReportInputs(inputs.data), [], [])
    assert left_out(text).keys() == {"summary", "claims", "results", "losses", "resources"}
    assert re.findall(r'<section id="(\w+)"', text) == ORDER
    text = page(replace(inputs, data=None), [], [])
    assert left_out(text).keys() == {
        "summary", "claims", "spectra", "energy", "subspaces", "modules", "mechanism", "merging"
    }  # fmt: skip
    assert "multilora analyze" in left_out(text)["spectra"]
    assert left_out(page(ReportInputs(), [], [])).keys() == set(ORDER) - {"about"}


def test_one_adapter_without_a_base_or_a_reference(inputs: ReportInputs) -> None:
    assert inputs.data is not None
    name = "lora@4 seed 0"
    data = inputs.data.content()
    own = [m | {"similarity": None, "mechanism": None, "numerics": None} for m in data["matrices"]]
    for matrix in own:
        kept = ("frobenius", "spectral", "rank", "zeros", "energy", "stable", "effective", "gini")
        matrix["measures"] = {k: v for k, v in matrix["measures"].items() if k.startswith(kept)}
    run = data["runs"][name] | {"comparison": None, "reference": None, "recipe": None, "regime": None}
    data |= {"runs": {name: run}, "matrices": [m for m in own if m["run"] == name]}
    reasons = left_out(page(ReportInputs(AnalysisRecord.model_validate(data)), [], []))
    assert "--reference" in reasons["subspaces"]
    assert "no modules" in reasons["modules"]
    assert "base model was not at hand" in reasons["mechanism"]
    assert "base model was not at hand" in reasons["merging"]
    assert {"spectra", "energy", "trained"}.isdisjoint(reasons)


def test_runs_alone_show_their_own_tests_and_resources() -> None:
    recipe = {
        "model": {"path": "org/model"},
        "method": {"name": "lora", "r": 8},
        "tasks": {"a": {"rate": 3.0}, "b": {"rate": 1.0}},
        "training": {"learning_rate": 0.01, "steps": 12},
    }
    results = RunResults.model_validate(run_results())
    tests = {"eval-validation": EvaluationResults.model_validate(scored(0.25))}
    run = RunRecord("mine", "lora@8", 0, "mixed", None, recipe, results, (), tests)
    text = page(ReportInputs(None, (), [run]), [], [])
    assert "Scores on validation rows" in text
    assert "25.0 (5.0 to 45.0)" in text
    assert '<td class="n">75.0</td>' in text
    assert "+0.125" in text
    assert "losses" in left_out(text)


def test_a_matrix_that_is_zero_and_one_of_rank_one_are_shown(inputs: ReportInputs) -> None:
    assert inputs.data is not None
    data = json.loads(inputs.data.text())
    for matrix in data["matrices"]:
        if matrix["run"] == "multilora seed 0" and matrix["block"] == 0:
            matrix["spectrum"] |= {"rank": 0, "index": [], "sigma": []}
            matrix["histogram"] = {"first": 0, "counts": [], "zeros": matrix["spectrum"]["size"]}
            matrix["measures"] = dict.fromkeys(matrix["measures"], 0.0)
            matrix["similarity"] = {"ranks": [], "reference_ranks": [1], "left": [], "right": []}
            matrix["mechanism"] |= {"ranks": []}
    text = page(replace(inputs, data=AnalysisRecord.model_validate(data)), [], [])
    panel = json.loads(packed(text, "data"))["spectrum"]["views"]["0|0|0"][0]
    assert "multilora: largest 0" in panel["alt"]
    assert "32 of 32 are zero" in panel["alt"]


def test_layers_that_share_a_name_are_told_apart(inputs: ReportInputs) -> None:
    assert inputs.data is not None
    data = json.loads(inputs.data.text())
    for matrix in data["matrices"]:
        if matrix["projection"] in ("o_proj", "down_proj"):
            matrix["projection"] = "c_proj"
            matrix["layer"] = matrix["layer"].rpartition(".")[0] + ".c_proj"
    text = page(replace(inputs, data=AnalysisRecord.model_validate(data)), [], [])
    assert ">self_attn.c_proj</option>" in text
    assert ">mlp.c_proj</option>" in text
    assert ">q_proj</option>" in text


def test_names_with_markup_stay_text(inputs: ReportInputs, whole: str) -> None:
    text = page(hostile(inputs), [], [])
    tags = [tag for tag, _ in Reader(text).tags]
    assert sorted(set(tags)) == sorted({tag for tag, _ in Reader(whole).tags})
    assert tags.count("script") == 3
    assert tags.count("section") == len(ORDER)
    labels = packed(text, "data")
    assert "<b>" not in json.dumps([view for f in json.loads(labels).values() for view in _labels(f)])


def _labels(figure: dict[str, Any]) -> list[Any]:
    """What plotly is given to write."""
    panels = [panel for view in figure["views"].values() for panel in view]
    traces = [trace for panel in panels for trace in panel["traces"]]
    return [panel["layout"] for panel in panels] + [[trace.get(key) for key in ("x", "y", "text")] for trace in traces]


def test_the_bench_stands_among_the_resources_and_trained_nothing(inputs: ReportInputs) -> None:
    text = page(ReportInputs(inputs.data, bench=bench_record()), [], [])
    assert "resources" not in left_out(text)
    sections = dict(re.findall(r'<section id="(\w+)"[^>]*>(.*?)</section>', text, re.DOTALL))
    words = Reader(sections["resources"]).text
    for part in ("a processor, 2 threads", "fp32", "batches of 2 rows", "toy Llama with 1,000 parameters"):
        assert part in words
    assert "Other processes took" not in words
    assert "multilora@5x8" not in sections["trained"]
    data = json.loads(packed(text, "data"))
    views = data["bench-memory"]["views"]
    record = bench_record()
    for number, (_, at) in enumerate(record.ordered):
        *kinds, peaks = views[str(number)][0]["traces"]
        for trace, kind in zip(kinds, ("weights", "activations", "gradients", "optimizer"), strict=True):
            expected = [getattr(costs.bytes, kind) / 2**20 for costs in at.methods.values()]
            assert trace["x"] == pytest.approx(expected, rel=1e-3)
        assert peaks["x"] == pytest.approx([costs.bytes.peak / 2**20 for costs in at.methods.values()], rel=1e-3)
    by_rank, by_length = data["bench-growth"]["views"]["1"]
    assert [len(trace["x"]) for trace in by_rank["traces"]] == [3, 1, 1, 1, 1, 1]
    assert {tuple(trace["x"]) for trace in by_length["traces"]} == {(32, 64)}
    assert f"{BATCH * 64 * PER_RANK * 8 / 1024:,.0f} KiB more, {8 * PER_RANK} bytes per token" in words


def test_a_method_that_was_trained_and_benched_has_one_colour(inputs: ReportInputs) -> None:
    lineup = Lineup(inputs)
    assert lineup.labels[: lineup.trained] == ["full", "lora@4", "multilora"]
    assert lineup.benched("lora@4") == 1
    assert lineup.labels.count("lora@4") == 1


def test_a_bench_alone_has_a_page_of_its_own_sections(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    report_on(file, None, [], bench_record())
    text = file.read_text()
    assert re.findall(r'<section id="(\w+)"', text) == ["claims", "resources", "about"]
    assert text.count('class="badge held"') == 2
    assert "<h1>What methods cost: toy Llama</h1>" in text
    assert 'href="#claims"' in text


def test_a_bench_of_one_length_and_one_method_has_what_it_can() -> None:
    content = bench_content((16,))
    methods = content["lengths"]["16"]["methods"]
    content["lengths"]["16"]["methods"] = {"full": methods["full"]}
    content |= {"reference": None, "faults": [{"method": "lora@4", "length": "16", "message": "out of memory"}]}
    content["lengths"]["16"]["methods"]["full"]["tokens_per_second"]["over_reference"] = None
    text = page(ReportInputs(bench=BenchRecord.model_validate(content)), [], [])
    assert list(json.loads(packed(text, "data"))) == ["bench-speed", "bench-memory"]
    assert "lora@4, rows of 16 tokens: out of memory" in Reader(text).text


def test_a_large_models_page_is_under_six_megabytes(tmp_path: Path) -> None:
    data = large_analysis()
    assert len(data.matrices) == 672
    write_report(tmp_path / "report.html", ReportInputs(data), [], [])
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_the_same_inputs_give_the_same_bytes_and_the_file_is_replaced_whole(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")
    write_report(file, inputs, [], [])
    first = file.read_bytes()
    write_report(file, inputs, [], [])
    assert file.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_page_of_folders_has_claims_and_sentences(study: Path, tmp_path: Path) -> None:
    data = AnalysisRecord.read(study / "out/analysis.json")
    report_on(tmp_path / "report.html", data, [study / "comparison"])
    text = (tmp_path / "report.html").read_text()
    assert left_out(text) == {}
    assert text.count('class="badge') >= 5
    assert gather(data, [study / "comparison"]).results
