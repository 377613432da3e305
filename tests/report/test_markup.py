"""No text becomes markup, in the page and in plotly's labels; numbers are written for readers."""

from __future__ import annotations

import html
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora.report.markup import el, escaped, plot_text, printable, table
from multilora.report.numbers import rounded, short


class Reader(HTMLParser):
    """Tags and texts as a browser sees them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(), st.text())
def test_a_text_stays_a_text_and_an_attribute_an_attribute(text: str, value: str) -> None:
    read = Reader(el("p", text, title=value))
    assert read.tags == [("p", [("title", printable(value))])]
    assert read.text == printable(text)


def test_markup_is_not_escaped_twice() -> None:
    inner = el("b", "a & b")
    assert escaped(inner) is inner
    assert el("p", inner, " < ", None) == "<p><b>a &amp; b</b> &lt; </p>"


def test_what_steers_is_not_printed() -> None:
    assert printable("a\x1b[31m\u202eb\udc80\x00") == "a�[31m�b��"
    assert el("p", "\udc80").encode() == "<p>�</p>".encode()


@given(st.text(max_size=28))
def test_plotly_gets_no_tag_and_shows_the_text(text: str) -> None:
    assert "<" not in plot_text(text)
    assert html.unescape(plot_text(text)) == printable(text)


def test_long_labels_are_cut_before_they_are_escaped() -> None:
    assert plot_text("<" * 100, 4) == "&lt;&lt;&lt;…"


def test_a_table_can_be_scrolled_by_keyboard_and_has_a_name() -> None:
    read = Reader(table("<caption>", ("a", "b"), [("x", "1"), ("y", "2")]))
    box = dict(read.tags[0][1])
    assert (box["tabindex"], box["role"], box["aria-label"]) == ("0", "region", "<caption>")
    assert [tag for tag, _ in read.tags].count("th") == 4


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (1234.5, "1,234"), (0.123456, "0.123"), (0.00012345, "1.23e-04"), (-2.5, "-2.50"), (None, "–"),
     (float("nan"), "–"), (float("inf"), "–"), (3e7, "3.00e+07")],
)  # fmt: skip
def test_short_numbers(value: float | None, written: str) -> None:
    assert short(value) == written


def test_rounded_data_keeps_its_form() -> None:
    data = {"a": [1.234567, 2.0, (3, True)], "b": {"c": float("nan")}, "d": "1.23456", "e": None, "f": 1e-30}
    assert rounded(data) == {"a": [1.235, 2, [3, True]], "b": {"c": None}, "d": "1.23456", "e": None, "f": 1e-30}
