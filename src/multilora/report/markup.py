"""HTML by elements: what is not of the type `Html` is escaped, so no text from data can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup. Plain strings are text."""

    __slots__ = ()


_VOID = frozenset({"meta", "link", "br", "input"})


def el(tag: str, *children: str | None, **attributes: str | int | bool | None) -> Html:
    """An element.

    Args:
        tag: its name.
        children: markup as `Html`; every other string is text and gets escaped; None is left out.
        attributes: `class_` for class, `data_x` for data-x; True: without a value; None or False: left out.
    """
    given = "".join(_attribute(name, value) for name, value in attributes.items())
    inner = "".join(escaped(child) for child in children if child is not None)
    return Html(f"<{tag}{given}>" if tag in _VOID else f"<{tag}{given}>{inner}</{tag}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """One after the other."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def escaped(text: str) -> Html:
    """Text as markup; markup as it is."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def printable(text: str) -> str:
    """Without characters that no page can show, or that steer how others are shown."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def plot_text(text: str, limit: int = 28) -> str:
    """Text as plotly takes it, which reads some HTML in labels: escaped, and cut where it is long."""
    text = printable(text)
    return html.escape(text if len(text) <= limit else f"{text[: limit - 1]}…", quote=False)


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1, class_: str | None = None
) -> Html:
    """A table in a box that scrolls where the table is wide.

    Args:
        caption: what it holds.
        head: of the columns.
        rows: cells; the first is the row's head.
        texts: how many of the first columns hold text; the others hold numbers.
        class_: of the box.
    """
    body = [
        el(
            "tr",
            *(
                el("th", cell, scope="row") if number == 0 else el("td", cell, class_="n" if number >= texts else None)
                for number, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    heads = (el("th", cell, scope="col", class_="n" if number >= texts else None) for number, cell in enumerate(head))
    made = el("table", el("caption", caption), el("thead", el("tr", *heads)), el("tbody", Html("\n".join(body))))
    return el("div", made, class_=f"scroll {class_ or ''}".strip(), tabindex=0, role="region", aria_label=caption)


def details(summary: str, *children: str) -> Html:
    """Content that a reader opens."""
    return el("details", el("summary", summary), *children)


def _attribute(name: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{html.escape(printable(str(value)))}"'
