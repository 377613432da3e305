from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import pytest

from multilora import InputError
from multilora.tasks.example import BadRow, Example
from multilora.tasks.jsonl import JsonlSection, JsonlTask
from multilora.tasks.template import Template
from tasks.hub_layout import write_split


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
    with pytest.raises(InputError, match=r"no row has the field 'inptu'; nearest: 'input'"):
        list(task(path, prompt=["{q} {inptu}", "{q}"]).train_rows())


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"q": "x", "a": "1"})
    faulty = task(tmp_path / "trian.jsonl", tmp_path, tmp_path / "train.jsonl")
    with pytest.raises(InputError) as error:
        faulty.check()
    assert "trian.jsonl" in str(error.value)
    assert "nearest: 'train.jsonl'" in str(error.value)
    assert str(error.value).count("cannot read") == 2


def built(file: Path, **section: object) -> JsonlTask:
    made = JsonlSection.model_validate({"train": str(file), **section}).build("t")
    assert isinstance(made, JsonlTask)
    return made


ARC = {"prompt": "Question: {question}\nAnswer:", "choices": " {choices.text}", "answer": "key"}


def test_choices_with_labels_of_their_own_in_an_inner_object(tmp_path: Path) -> None:
    # Some sources count from 1, where a number without labels would count from 0.
    rows = [
        {"question": "Which floats?", "choices": {"text": ["a cork", "a nail"], "label": labels}, "key": key}
        for labels, key in ((["A", "B"], "B"), (["1", "2"], "2"), ([1, 2], 2), (["2", "1"], 1))
    ]
    task = built(write(tmp_path / "f.jsonl", *rows), labels="choices.label", **ARC)
    found = [row for row in task.train_rows() if isinstance(row, Example)]
    assert [row.completion for row in found] == [" a nail"] * 4
    assert found[0].choices == (" a cork", " a nail")


@pytest.mark.parametrize(
    ("labels", "key", "why"),
    [
        (["A", "B"], "C", r"field 'key' is 'C', and one of \['A', 'B'\] is needed"),
        (["A", "A"], "A", "field 'key' is 'A'"),
        (["A"], "A", "field 'choices.label' is no list of 2 labels, one for each choice"),
        ("AB", "A", "field 'choices.label' is no list"),
        (["A", "B"], None, "field 'key' is null"),
    ],
)
def test_labels_that_do_not_say_which_choice(labels: object, key: object, why: str, tmp_path: Path) -> None:
    row = {"question": "q", "choices": {"text": ["x", "y"], "label": labels}, "key": key}
    (bad,) = built(write(tmp_path / "f.jsonl", row), labels="choices.label", **ARC).train_rows()
    assert isinstance(bad, BadRow)
    assert re.search(why, bad.why), bad.why


def test_fields_of_inner_objects_go_into_templates_and_missing_ones_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"q": {"text": "x", "n": 3}, "a": "1"})
    (row,) = task(path, prompt="{q.text} {q.n}").train_rows()
    assert isinstance(row, Example)
    assert row.prompt == "x 3"
    with pytest.raises(InputError, match=r"no row has the field 'q\.txt'; nearest: 'q\.text'"):
        list(task(path, prompt=["{q.txt}", "{q.text}"]).train_rows())


def test_a_prompt_that_is_always_the_same_does_not_hold_all_rows_together(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *[{"text": f"story {i}"} for i in range(60)])
    split = built(path, prompt="Story:", completion=" {text}", validation_share=0.5)
    held, trained = ([*rows] for rows in (split.eval_rows("validation"), split.train_rows()))
    assert 15 < len(held) < 45
    assert len(held) + len(trained) == 60


@pytest.mark.parametrize("value", [None, "", " ", True, 1.5, ["x"]])
def test_an_id_is_text_or_a_whole_number(value: object, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"q": "x", "a": "1", "n": value}, {"q": "y", "a": "2", "n": 7})
    bad, fine = built(path, prompt="{q}", completion="{a}", id="n").train_rows()
    assert isinstance(bad, BadRow)
    assert "field 'n' has no id" in bad.why
    assert isinstance(fine, Example)
    assert fine.id == "7"


def test_rows_of_a_data_set_in_the_hubs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(4)]
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    write_split(tmp_path / "hub" / "small", "train", rows, kinds)
    write_split(tmp_path / "hub" / "small", "validation", rows[:1], kinds)
    section = {"hub": str(tmp_path / "hub"), "config": "small", "test": "validation", "prompt": "{text}:"}
    made = JsonlSection.model_validate({**section, "completion": " {label}", "choices": [" bad", " good"]}).build("t")
    made.check()
    found = [row for row in made.train_rows() if isinstance(row, Example)]
    assert [(row.prompt, row.completion) for row in found] == [
        ("t0:", " bad"), ("t1:", " good"), ("t2:", " bad"), ("t3:", " good")
    ]  # fmt: skip
    assert found[0].source.endswith("hub/small train row 1")
    assert len(list(made.eval_rows("test"))) == 1
