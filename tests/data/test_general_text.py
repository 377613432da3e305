from __future__ import annotations

from pathlib import Path

import pytest

from multilora import InputError
from multilora.data.general_text import read_texts


def test_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain\n\ntext")
    (tmp_path / "b.json").write_text('["one", {"text": "two"}, " "]')
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n\n{"text": "four", "more": 1}\n')
    texts = read_texts([tmp_path / name for name in ("a.txt", "b.json", "c.jsonl")], "field")
    assert texts == ["plain\n\ntext", "one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}', "line 2 is neither a text nor an object"),
        ("a.json", '{"text": "x"}', "a JSON object where an array is needed"),
        ("a.json", '["x"', "Expecting"),
        ("a.json", "[1]", "row 1 is neither"),
        ("a.jsonl", "{", "not JSON"),
        ("a.txt", " \n", "all are blank"),
        ("a.txt", b"\xff", "utf-8"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_texts([tmp_path / name], "field")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "stories.json").write_text("[]")
    with pytest.raises(InputError, match=r"cannot read .*story\.json.*nearest: 'stories\.json'"):
        read_texts([tmp_path / "story.json"], "field")
