"""Records: what is written is read again, files of other versions, and what is said about files that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora import InputError
from multilora.storage.record import Line, Part, Record


class Inner(Part):
    number: float
    note: str | None = None


class Whole(Record):
    name: str
    parts: Mapping[str, Inner]
    late: int | None = None


class Newer(Record):
    READABLE = (2, 3)

    format: int
    name: str


class Entry(Line):
    step: int
    loss: float | None = None


inner = st.builds(
    lambda number, note: Inner(number=number, **note),
    st.floats(allow_nan=False),
    st.one_of(st.just({}), st.fixed_dictionaries({"note": st.none() | st.text()})),
)


@given(name=st.text(), parts=st.dictionaries(st.text(), inner), late=st.none() | st.integers())
def test_what_is_written_is_read_and_written_again_byte_for_byte(
    name: str, parts: dict[str, Inner], late: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "whole.json"
    record = Whole(name=name, parts=parts, late=late)
    record.write(file)
    again = Whole.read(file)
    assert again == record
    assert again.text() == record.text() == file.read_text(encoding="utf-8")


def test_the_format_number_comes_first_and_what_was_not_given_is_left_out() -> None:
    record = Whole(name="a", parts={"p": Inner(number=1.5)})
    assert json.dumps(record.content()) == '{"format": 1, "name": "a", "parts": {"p": {"number": 1.5}}}'


def test_a_file_without_a_number_has_format_1(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"name": "a", "parts": {}}')
    assert Whole.read(tmp_path / "a") == Whole(name="a", parts={})


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"format": 1, "name": "a", "parts": {"p": {"number": 2, "more": []}}, "more": 1}')
    assert Whole.read(tmp_path / "a").parts["p"].number == 2


@pytest.mark.parametrize(
    ("cls", "content", "said"),
    [
        (Whole, {"format": 2, "name": 1}, r"format: this version of multilora reads format 1; got 2"),
        (Whole, {"format": [], "name": "a"}, r"format: .* reads format 1; got \[\]"),
        (Newer, {"format": 1, "name": "a"}, r"format: .* reads format 2 and 3; got 1"),
        (Newer, {"name": "a"}, r"format is missing"),
        (Whole, {"name": "a"}, r"parts is missing"),
        (Whole, {"name": 1, "parts": 2}, r"name: .*; got 1 \(and 1 more\)"),
        (Whole, {"name": "a", "parts": {"p": {"number": "x" * 99}}}, r"parts\.p\.number: .*; got 'x{58}…"),
    ],
)
def test_a_fault_is_named_with_file_field_value_and_remedy(
    cls: type[Record], content: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"a\.json': {said}.*; do it again$"):
        cls.read(file, "do it again")


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "is not JSON"), (b"{", "is not JSON"), (b"[]", "holds no object"), (b"[" * 10**5, "is not JSON"),
     (b'{"name": ' + b"9" * 5000 + b"}", "is not JSON"), (b"\xff\xfe\x00", "is not JSON")],
    ids=["empty", "cut", "list", "deep", "digits", "bytes"],
)  # fmt: skip
def test_what_is_no_record_at_all_is_said(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(InputError, match=f"a' {said}"):
        Whole.read(tmp_path / "a")


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=rf"cannot read '{file}': .*; make one"):
            Whole.read(file, "make one")


def test_lines_are_read_up_to_the_one_that_a_kill_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    assert Entry.read_all(file) == []
    lines = [Entry(step=1, loss=0.5), Entry(step=2)]
    file.write_text("".join(line.text() for line in lines) + '{"step": 3')
    assert file.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2}\n{"step": 3'
    assert Entry.read_all(file) == lines


def test_the_line_with_a_fault_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text('{"step": 1}\n{"step": "one"}\n')
    with pytest.raises(InputError, match=r"lines, line 2': step: .*; got 'one'"):
        Entry.read_all(file)


def test_characters_of_a_line() -> None:
    class Said(Line):
        text_: str

    line = Said(text_="ü")
    assert line.text() == '{"text_": "\\u00fc"}\n'
    assert line.text(ascii_only=False) == '{"text_": "ü"}\n'


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Whole(name="a", parts={}).name = "b"  # pyright: ignore[reportAttributeAccessIssue]
