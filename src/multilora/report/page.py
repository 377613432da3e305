"""The page: one HTML file with everything in it, which asks no network for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePath

from multilora.bench.record import BenchRecord
from multilora.report.claims import Claim, judge
from multilora.report.figures import Section
from multilora.report.inputs import ReportInputs, gather
from multilora.report.markup import Html, details, el
from multilora.report.numbers import counted
from multilora.report.page_data import PageData
from multilora.report.sections.mechanism import mechanism, merging
from multilora.report.sections.modules import modules
from multilora.report.sections.opening import claims as claims_section
from multilora.report.sections.opening import summary
from multilora.report.sections.scores import results
from multilora.report.sections.spectra import layers, spectra
from multilora.report.sections.subspaces import subspaces
from multilora.report.sections.trained import trained
from multilora.report.sections.training import losses, resources
from multilora.report.summary import sentences as summary_sentences
from multilora.spectral.record import AnalysisRecord
from multilora.spectral.sources import Source
from multilora.storage.folders import write_text

REPORT_FILE = "report.html"
_SHOWN_NOTES = 50


def report_on(
    path: Path,
    data: AnalysisRecord | None,
    folders: Sequence[Path],
    bench: BenchRecord | None = None,
    sources: Sequence[Source] | None = None,
) -> None:
    """Write the page of an analysis, of comparisons, of a bench, or of all.

    Args:
        path: the file.
        data: the analysis; None if nothing was analysed.
        folders: those that were analysed: runs, comparisons, adapters, models.
        bench: what methods cost; None if not measured.
        sources: what the analysis found in the folders; None: they are searched.
    """
    inputs = gather(data, folders, bench, sources)
    claims = judge(data, inputs.results, bench)
    if inputs.only_bench:
        claims = [claim for claim in claims if claim.verdict != "not measured"]
    write_report(path, inputs, claims, summary_sentences(data, inputs.results))


def write_report(path: Path, inputs: ReportInputs, claims: Sequence[Claim], sentences: Sequence[str]) -> None:
    """Write the page; it has its old content or the new one, never a part.

    Args:
        path: the file.
        inputs: what it shows.
        claims: the paper's claims, judged.
        sentences: the summary.
    """
    write_text(path, page(inputs, claims, sentences))


def page(inputs: ReportInputs, claims: Sequence[Claim], sentences: Sequence[str]) -> str:
    """The page's content. Arguments as for `write_report`."""
    shown = PageData(inputs)
    sections = [
        summary(sentences),
        claims_section(claims),
        trained(shown),
        results(shown),
        losses(shown),
        spectra(shown),
        layers(shown),
        subspaces(shown),
        modules(shown),
        mechanism(shown),
        merging(shown),
        resources(shown),
        _about(inputs),
    ]
    if inputs.only_bench:
        sections = [section for section in sections if section.left_out is None]
    script, plotly = _asset("page.js"), _plotly()
    figures = {figure.id: figure.data() for section in sections for figure in section.figures}
    drawn = json.dumps(figures, separators=(",", ":"), allow_nan=False)
    title = _title(inputs)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(script, plotly)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", Html(_asset("page.css"))),
    )
    body = el(
        "body",
        el("a", "Skip to the content", class_="skip", href=f"#{sections[0].id}"),
        el(
            "header",
            el("h1", title),
            el("button", "Dark", type="button", id="theme", aria_pressed="false", hidden=True),
            el(
                "p",
                "Every plot has its numbers as a table below it. ",
                el("span", "Drag in a plot to zoom, double-click to go back.", class_="mouse"),
                class_="hint",
            ),
            _contents(sections),
        ),
        el("main", *(section.html(shown.lineup) for section in sections)),
        el("noscript", el("p", "The plots need JavaScript; the tables hold their numbers.", class_="left-out")),
        el("script", _packed(plotly), type="text/plain", id="plotly"),
        el("script", _packed(drawn), type="text/plain", id="data"),
        el("script", Html(script)),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _title(inputs: ReportInputs) -> str:
    if inputs.bench is not None and inputs.only_bench:
        return f"What methods cost: {PurePath(inputs.bench.model).name}"
    base = inputs.data.base if inputs.data else None
    names = [PurePath(comparison.folder).name for comparison in inputs.comparisons]
    names += [run.name for run in inputs.runs if not run.comparison]
    names = names or list(inputs.data.runs if inputs.data else ())
    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    on = f" on {PurePath(base).name}" if base else ""
    return f"MultiLoRA study: {what}{on}" if what else "MultiLoRA study"


def _contents(sections: Sequence[Section]) -> Html:
    items = (
        el("li", el("a", section.title, href=f"#{section.id}", class_="dim" if section.left_out else None))
        for section in sections
    )
    return el("nav", el("ul", *items), aria_label="Contents")


def _about(inputs: ReportInputs) -> Section:
    """What the reader has to know besides: notes, faults, settings, versions."""
    section = Section("about", "About this page")
    data = inputs.data
    notes = [*(data.notes if data else ()), *inputs.notes]
    if notes:
        section.parts.append(el("ul", *(el("li", note) for note in notes[:_SHOWN_NOTES])))
    faults = data.faults if data else ()
    if faults:
        items = [el("li", f"{fault.run}, {fault.layer}: {fault.message}") for fault in faults[:_SHOWN_NOTES]]
        more = len(faults) - len(items)
        section.parts += [
            el("p", f"{counted(len(faults), 'matrix', 'matrices')} could not be analysed:", class_="lead"),
            el("ul", *items, el("li", f"and {more} more, which analysis.json names") if more else None),
        ]
    versions = data.versions if data and data.versions else {"multilora": version("multilora")}
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    section.parts.append(
        el("p", f"Made by {made}; plots by plotly (MIT licence), which is in this file. The page asks no network for "
           "anything.", class_="note")
    )  # fmt: skip
    if data and data.settings:
        settings = ", ".join(f"{name}: {value}" for name, value in data.settings.items())
        section.parts.append(details("settings of the analysis", el("p", settings)))
    return section


def _policy(*scripts: str) -> str:
    """Nothing is loaded from anywhere, and no script runs but the page's own two."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _packed(text: str) -> Html:
    """Compressed and in letters that can close no tag."""
    return Html(base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode())


def _asset(name: str) -> str:
    return (files("multilora.report") / "assets" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
