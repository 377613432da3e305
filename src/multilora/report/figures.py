"""Figures: what plotly draws, the controls that choose it, and the table with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multilora.report.lineup import Lineup
from multilora.report.markup import Html, details, el
from multilora.report.numbers import rounded

# The colours are in page.css; these go with them, so that methods differ in more than colour.
# page.js has their names in the same order.
DASHES = (None, "7 4", "2 3", "7 3 2 3", "12 4")
SYMBOLS = (
    "M12 3a5 5 0 1 0 .01 0z",  # circle
    "M7.5 3.5h9v9h-9z",  # square
    "M12 2l6 6-6 6-6-6z",  # diamond
    "M12 2.5l6 10.5H6z",  # triangle-up
    "M7 5l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z",  # x
    "M12 1l2 5h5l-4 3.4 1.6 5.2L12 11.4l-4.6 3.2L9 9.4 5 6h5z",  # star
    "M10 2.5h4v4h4v3h-4v4h-4v-4H6v-3h4z",  # cross
)
LINE, SQUARE, CROSS = -1, -2, -3
NEUTRALS = {LINE: "M0 8h24", SQUARE: "M8 4h8v8h-8z", CROSS: "M8 4l8 8m0-8l-8 8"}
COLOURS = 8
FILL = -11  # and downwards: fills of bars that are no method's, as many as page.css has colours --k0, --k1, ...

Data = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """A choice of the reader's.

    Attributes:
        label: what is chosen.
        options: to choose from. A control with one option is not shown.
    """

    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        alt: what it shows, in words and numbers.
        traces: as plotly has them, without colours: `s` is the number of the series, or of a neutral mark.
        layout: as plotly has it, without colours.
        title: above the plot.
    """

    alt: str
    traces: Sequence[Data]
    layout: Data
    title: str | None = None


@dataclass(frozen=True)
class Figure:
    """Plots that belong together.

    Attributes:
        id: unique on the page.
        title: what is plotted.
        views: panels by the numbers of the options chosen; the first is shown first. All have at most as many panels
            as the widest.
        table: the numbers.
        controls: what the reader chooses.
        series: that the key explains.
        others: what else it explains: number of the marks, below zero, and what they stand for.
        note: below the plots.
        scale: ends of the colour scale that the panels share; None: they have none.
        wide: one panel beside the other only where each has much room.
    """

    id: str
    title: str
    views: Mapping[tuple[int, ...], Sequence[Panel]]
    table: Html
    controls: Sequence[Control] = ()
    series: Sequence[int] = ()
    others: Sequence[tuple[int, str]] = ()
    note: str | None = None
    scale: tuple[str, str] | None = None
    wide: bool = True
    table_title: str = "The numbers as a table"

    def html(self, lineup: Lineup) -> Html:
        """The figure as markup, without its data."""
        first, shown = next(iter(self.views.items()))
        count = max(len(panels) for panels in self.views.values())
        chosen = [
            el(
                "label",
                el("span", control.label),
                el(
                    "select",
                    *(
                        el("option", option, value=number, selected=number == first[place])
                        for number, option in enumerate(control.options)
                    ),
                    data_control=place,
                ),
            )
            for place, control in enumerate(self.controls)
            if len(control.options) > 1
        ]
        plots = [
            el(
                "div",
                el("p", (shown[place].title or "") if place < len(shown) else "", class_="panel-title"),
                el("div", class_="plot", role="img", aria_label=shown[place].alt if place < len(shown) else ""),
                class_="panel",
            )
            for place in range(count)
        ]
        return el(
            "figure",
            el("figcaption", self.title),
            el("div", *chosen, class_="controls") if chosen else None,
            _key([*((number, lineup.labels[number]) for number in self.series), *self.others])
            if self.series or self.others
            else None,
            _scale(*self.scale) if self.scale else None,
            el("div", *plots, class_="panels wide" if self.wide else "panels"),
            el("p", class_="none", hidden=True),
            el("p", class_="said", aria_live="polite"),
            el("p", self.note, class_="note") if self.note else None,
            details(self.table_title, self.table),
            id=self.id,
            class_="plots",
        )

    def data(self) -> Data:
        """What the page's script draws."""
        return {
            "views": {
                "|".join(map(str, key)): [
                    {
                        "alt": panel.alt,
                        "title": panel.title or "",
                        "traces": rounded(list(panel.traces)),
                        "layout": panel.layout,
                    }
                    for panel in panels
                ]
                for key, panels in self.views.items()
            },
            "controls": len(self.controls),
            "first": list(next(iter(self.views))),
        }


@dataclass
class Section:
    """A section of the page.

    Attributes:
        id: unique on the page.
        title: its heading.
        lead: what one sees, and how to read it.
        parts: markup and figures, in order.
        left_out: why there is nothing to show; None: there is.
    """

    id: str
    title: str
    lead: str = ""
    parts: list[Html | Figure] = field(default_factory=list[Html | Figure])
    left_out: str | None = None

    @property
    def figures(self) -> list[Figure]:
        """The figures among the parts."""
        return [part for part in self.parts if isinstance(part, Figure)]

    def html(self, lineup: Lineup) -> Html:
        """The section as markup."""
        heading = el("h2", self.title, id=f"{self.id}-title")
        if self.left_out is not None:
            texts = self.left_out.split("`")
            parts = (el("code", text) if number % 2 else text for number, text in enumerate(texts))
            body = [el("p", el("strong", "Left out: "), *parts, class_="left-out")]
        else:
            body = [el("p", self.lead, class_="lead")] if self.lead else []
            body += [part.html(lineup) if isinstance(part, Figure) else part for part in self.parts]
        return el("section", heading, *body, id=self.id, aria_labelledby=f"{self.id}-title")


def swatch(series: int) -> Html:
    """A small line with the series' colour, dash and marker, or a small field with a fill."""
    if series <= FILL:
        marks = [el("rect", x=5, y=2, width=14, height=12, fill=f"var(--k{FILL - series})")]
    elif series < 0:
        marks = [el("path", d=NEUTRALS[series], stroke="var(--soft)", stroke_width="1.5")]
    else:
        colour = f"var(--s{series % COLOURS})"
        marks = [
            el("path", d="M0 8h24", stroke=colour, stroke_width=2, stroke_dasharray=DASHES[series % len(DASHES)]),
            el("path", d=SYMBOLS[series % len(SYMBOLS)], fill=colour),
        ]
    return el(
        "svg",
        *marks,
        viewBox="0 0 24 16",
        width=24,
        height=16,
        aria_hidden="true",
    )


def _key(series: Sequence[tuple[int, str]]) -> Html:
    return el(
        "ul", *(el("li", swatch(number), el("span", label)) for number, label in series), class_="key",
        aria_label="colours and markers"
    )  # fmt: skip


def _scale(low: str, high: str) -> Html:
    return el("p", el("span", low), el("i"), el("span", high), class_="scale")
