from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from multilora import InputError
from multilora.data.example import BadRow, Example
from multilora.data.tasks.jsonl import JsonlTask
from multilora.data.template import Template


def task(*files: Path, prompt: str | list[str] = "Q: {q}", completion: str = "{a}") -> JsonlTask:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return JsonlTask("t", files, [Template.parse(text) for text in prompts], Template.parse(completion))


def write(path: Path, *lines: object) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_rows_come_in_order_with_their_place(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"q": "x", "a": "1"}, "", {"q": "y", "a": 2})
    two = write(tmp_path / "two.jsonl", {"q": "z", "a": True})
    assert list(task(one, two).train_rows()) == [
        Example("Q: x", "1", "one.jsonl line 1"),
        Example("Q: y", "2", "one.jsonl line 3"),
        Example("Q: z", "true", "two.jsonl line 1"),
    ]


def test_a_byte_order_mark_and_a_missing_last_line_break_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": "\xc3\xa4", "a": "1"}\r\n{"q": "y", "a": "2"}')
    assert [row.prompt for row in task(path).train_rows() if isinstance(row, Example)] == ["Q: ä", "Q: y"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"q": "x"', "not JSON"),
        ("[1, 2]", "a JSON list where an object"),
        ("null", "a JSON null where an object"),
        ('{"a": "1"}', "no field 'q'"),
        ('{"qq": "x", "a": "1"}', "nearest: 'qq'"),
        ('{"q": null, "a": "1"}', "field 'q' is null"),
        ('{"q": ["x"], "a": "1"}', "field 'q' is list"),
        ('{"q": "x", "a": ""}', "completion is blank"),
        ('{"q": "x", "a": " \\n"}', "completion is blank"),
        ('{"q": "\\ud800", "a": "1"}', "lone surrogate"),
        ('{"q": ' + "9" * 5000 + ', "a": "1"}', "cannot be read"),
        ('{"q": ' + "[" * 100_000, "cannot be read|not JSON"),
    ],
)
def test_a_bad_row_says_where_and_why_and_the_others_go_on(tmp_path: Path, line: str, why: str) -> None:
    path = write(tmp_path / "f.jsonl", {"q": "x", "a": "1"}, line, {"q": "y", "a": "2"})
    first, bad, last = task(path).train_rows()
    assert isinstance(first, Example)
    assert isinstance(last, Example)
    assert isinstance(bad, BadRow)
    assert bad.source == "f.jsonl line 2"
    assert re.search(why, bad.why), bad.why


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"q": "\xff", "a": "1"}\n')
    (bad,) = task(path).train_rows()
    assert isinstance(bad, BadRow)
    assert "not UTF-8" in bad.why


def test_the_first_prompt_with_all_its_fields_filled_is_used(tmp_path: Path) -> None:
    filled, empty, absent = {"i": "in"}, {"i": ""}, dict[str, str]()
    path = write(tmp_path / "f.jsonl", *[{"q": "x", "a": "1"} | more for more in (filled, empty, absent)])
    both = task(path, prompt=["{q} with {i}", "{q} alone"])
    assert [row.prompt for row in both.train_rows() if isinstance(row, Example)] == ["x with in", "x alone", "x alone"]


def test_the_last_prompt_takes_empty_values(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"q": "", "a": "1"})
    assert [row.prompt for row in task(path).train_rows() if isinstance(row, Example)] == ["Q: "]


def test_a_field_that_no_row_has_is_an_error_even_where_no_row_needs_it(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"q": "x", "input": "in", "a": "1"}, {"q": "y", "a": "2"})
    with pytest.raises(InputError, match=r"no row has the template field 'inptu'; nearest: 'input'"):
        list(task(path, prompt=["{q} {inptu}", "{q}"]).train_rows())


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"q": "x", "a": "1"})
    faulty = task(tmp_path / "trian.jsonl", tmp_path, tmp_path / "train.jsonl")
    with pytest.raises(InputError) as error:
        faulty.check()
    assert "trian.jsonl" in str(error.value)
    assert "nearest: 'train.jsonl'" in str(error.value)
    assert str(error.value).count("cannot read") == 2
