"""The page in a real browser: drawn, complete, quiet, usable by keyboard, at any width, in both themes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multilora.report.claims import Claim
from multilora.report.inputs import ReportInputs
from multilora.report.page import write_report
from report.browser import Chromium, Tab
from report.hostile import END, IMAGE, PLOTLY, SCRIPT, hostile

CLAIMS = [
    Claim("scores", "MultiLoRA is above LoRA.", "section 4", "held", "+3.3 points (1.0 to 5.0)"),
    Claim("spectra", "LoRA is polarised.", "section 5", "not held", "0.4 against 0.5"),
    Claim("merge", "MultiLoRA is mergeable.", "section 3", "not measured", "no base"),
]
SECTIONS = (
    "summary", "claims", "trained", "results", "losses", "spectra", "energy", "subspaces", "modules", "mechanism",
    "merging", "resources", "about",
)  # fmt: skip
FIGURES = (
    "scores-0", "differences-0", "loss", "spectrum", "energy-map", "similarity-by-rank", "similarity-grid",
    "module-plots", "mechanism-plots", "bench-speed", "bench-memory", "bench-growth",
)  # fmt: skip
DRAWN = "document.documentElement?.dataset.drawn !== undefined"
# Of each plot that is shown: does plotly's drawing in it have the size of the plot?
PLOTS = """[...document.querySelectorAll('.panel:not([hidden]) .plot')].map((plot) => {
  const svg = plot.querySelector('.main-svg'), box = plot.getBoundingClientRect();
  return Boolean(svg) && svg.getBoundingClientRect().width > 100 && box.width > 100 && box.height > 90
    && svg.getBoundingClientRect().right <= box.right + 1;
})"""

Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def file(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, inputs, CLAIMS, ["MultiLoRA has 2 modules.", "Nothing more is known."])
    return path


@pytest.fixture(scope="module")
def tab(file: Path, browser: Chromium) -> Iterator[Tab]:
    """The page, drawn, for tests that leave it as it is."""
    opened = Tab(browser, file, 1200, 900)
    opened.until(DRAWN)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def hostile_file(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    claims = [Claim(f"x{IMAGE}", SCRIPT, IMAGE, "held", END)]
    write_report(path, hostile(inputs), claims, [SCRIPT, IMAGE])
    return path


@pytest.fixture
def opened(browser: Chromium) -> Iterator[Open]:
    """A function that opens a page and waits until it is drawn; all pages are closed afterwards."""
    tabs: list[Tab] = []

    def open_page(path: Path, width: int = 1200, height: int = 900, **how: bool) -> Tab:
        tabs.append(Tab(browser, path, width, height, **how))
        tabs[-1].until(DRAWN)
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_everything_is_drawn_quietly_and_fits(file: Path, opened: Open, width: int, dark: bool) -> None:
    tab = opened(file, width, dark=dark, touch=width < 500)
    assert tab.run("[...document.querySelectorAll('main > section')].map((s) => s.id)") == list(SECTIONS)
    assert tab.run("[...document.querySelectorAll('figure')].map((f) => f.id)") == list(FIGURES)
    assert tab.run("document.querySelectorAll('.left-out:not(noscript *)').length") == 0
    plots = tab.run(PLOTS)
    assert len(plots) >= 15
    assert all(plots)
    assert tab.run("document.scrollingElement.scrollWidth") <= width
    assert tab.complaints() == []
    assert {address.partition(":")[0] for address in tab.requests()} <= {"file", "data", "blob"}
    assert [address for address in tab.requests() if address.startswith("file:")] == [file.resolve().as_uri()]


def test_texts_stand_out_in_both_themes(tab: Tab) -> None:
    def contrasts() -> list[float]:
        return tab.run(_CONTRASTS)

    light = tab.run("getComputedStyle(document.body).backgroundColor")
    assert min(contrasts()) >= 4.5
    tab.run("document.getElementById('theme').focus()")
    tab.press("Enter")
    assert tab.run("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    assert tab.run("getComputedStyle(document.body).backgroundColor") != light
    assert min(contrasts()) >= 4.5
    assert all(tab.run(PLOTS))
    tab.press("Enter")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == light


def test_the_theme_follows_the_system_until_it_is_chosen(file: Path, opened: Open) -> None:
    tab = opened(file)
    colour = "getComputedStyle(document.body).backgroundColor"
    ticks = "getComputedStyle(document.querySelector('#spectrum .xtick text')).fill"
    light, light_ticks = tab.run(colour), tab.run(ticks)
    tab.ask_for(dark=True)
    tab.until(f"{colour} !== '{light}' && {ticks} !== '{light_ticks}'")
    dark = tab.run(colour)
    tab.run("document.getElementById('theme').click()")
    assert tab.run(colour) == light != dark


def test_controls_work_by_keyboard(tab: Tab) -> None:
    for figure in ("loss", "spectrum", "energy-map", "similarity-by-rank", "similarity-grid", "module-plots",
                   "mechanism-plots"):  # fmt: skip
        for number in range(tab.run(f"document.querySelectorAll('#{figure} select').length")):
            select = f"document.querySelectorAll('#{figure} select')[{number}]"
            shown = (
                f"JSON.stringify([...document.querySelectorAll('#{figure} .plot')]"
                ".map((plot) => [plot.getAttribute('aria-label'), plot.data]))"
            )
            before = tab.run(shown)
            tab.run(f"{select}.focus()")
            tab.press("ArrowDown")
            assert tab.run(f"{select}.selectedIndex") == 1
            assert tab.run(shown) != before
            assert tab.run(f"document.querySelector('#{figure} .said').textContent") != ""
            tab.press("ArrowUp")
            assert tab.run(shown) == before
    assert tab.complaints() == []


def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(file: Path, opened: Open) -> None:
    tab = opened(file)
    where = "[document.activeElement.tagName, document.activeElement.textContent, document.activeElement.className]"
    tab.press("Tab")
    assert tab.run(where)[1] == "Skip to the content"
    assert tab.run("document.activeElement.getBoundingClientRect().left >= 0")
    tab.press("Enter")
    assert tab.run("location.hash") == "#summary"
    reached: list[str] = []
    for _ in range(400):
        tab.press("Tab")
        tag, _, class_ = tab.run(where)
        if tag == "BODY":
            break
        assert tab.run("parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2"), (tag, class_)
        reached.append(tag)
    assert reached.count("SELECT") == tab.run("document.querySelectorAll('select').length")
    assert reached.count("SUMMARY") == tab.run("document.querySelectorAll('summary').length")


def test_a_screen_reader_has_words_and_a_table_for_every_plot(tab: Tab) -> None:
    labels = tab.run(
        "[...document.querySelectorAll('.plot')].map((p) => [p.getAttribute('role'), p.getAttribute('aria-label')])"
    )
    assert all(role == "img" and len(label) > 40 and any(char.isdigit() for char in label) for role, label in labels)
    assert tab.run("[...document.querySelectorAll('figure')].every((f) => f.querySelector('details table td'))")
    assert tab.run("[...document.querySelectorAll('select')].every((s) => s.labels[0].innerText.length > 2)")
    assert tab.run("[...document.querySelectorAll('table')].every((t) => t.caption.innerText || t.caption.textContent)")
    assert tab.run("[...document.querySelectorAll('h1, h2')].map((h) => h.tagName)") == ["H1", *["H2"] * len(SECTIONS)]


def test_names_with_markup_are_shown_as_they_are(hostile_file: Path, opened: Open) -> None:
    tab = opened(hostile_file, 360, touch=True)
    assert tab.run("window.hacked") is None
    assert tab.run("document.scrollingElement.scrollWidth") <= 360
    assert tab.complaints() == []
    assert tab.run("document.querySelectorAll('img, iframe, object, b, main a, svg a, [onerror]').length") == 0
    assert tab.run("[...document.scripts].map((s) => s.id)") == [
        "",
        "plotly",
        "data",
        "",
    ]  # plotly's own is in the head
    assert tab.run("document.querySelectorAll('main > section').length") == len(SECTIONS)
    assert all(tab.run(PLOTS))
    text: str = tab.run("document.body.innerText")
    for name in (f"{SCRIPT}multilora", f"{IMAGE}lora", f"{PLOTLY}full", END, f"{IMAGE}model", f"{END}3x8"):
        assert name in text
    ticks: str = tab.run("[...document.querySelectorAll('.ytick text, .xtick text')].map((t) => t.textContent).join()")
    for name in (PLOTLY, IMAGE, END):
        assert name[:20] in ticks
    point: dict[str, Any] = tab.run(
        """(async () => {
          const plot = document.querySelector('#scores-0 .plot');
          Plotly.Fx.hover(plot, [{ curveNumber: 0, pointNumber: 1 }]);
          const text = plot.querySelector('.hovertext')?.textContent;
          return { text, links: plot.querySelectorAll('a').length };
        })()"""
    )
    assert point["links"] == 0
    assert "<b>bold</b>" in point["text"]
    assert tab.run("window.hacked") is None


def test_without_scripts_the_numbers_are_there(file: Path, browser: Chromium) -> None:
    tab = Tab(browser, file, 800, 900, scripts=False)
    try:
        tab.until("document.readyState === 'complete'")
        assert tab.run("document.querySelectorAll('.main-svg').length") == 0
        assert "The plots need JavaScript" in tab.run("document.body.innerText")
        assert tab.run("document.querySelectorAll('#spectrum td').length") > 100
        assert tab.complaints() == []
    finally:
        tab.close()


# Contrast (WCAG 2) of every text on the page's own papers; plotly's texts and opened details are left to the eye.
_CONTRASTS = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('h1, h2, p, li, a, span, th, td, label, select, button, summary, figcaption')]
    .filter((e) => !e.closest('.plot') && !e.classList.contains('said') && e.textContent.trim() && e.offsetParent)
    .map((e) => [light(getComputedStyle(e).color), light(paper(e))].sort((a, b) => b - a))
    .map(([high, low]) => (high + 0.05) / (low + 0.05));
})()"""
