"""Conversations as rows: what a row must have, and what a conversation says of itself as an example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from multilora import InputError
from multilora.tasks.chat import ChatSection, ChatTask
from multilora.tasks.example import BadRow, Conversation, Example, NoSplitError
from multilora.tasks.keys import key_of
from tasks.formats import write_lines
from tasks.hub_layout import write_split


def turns(*texts: str) -> list[dict[str, Any]]:
    """User and assistant in turn; the system's text begins with `sys`."""
    system = [{"role": "system", "content": text} for text in texts[:1] if text.startswith("sys")]
    spoken = texts[len(system) :]
    return system + [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(spoken)]


def task(file: Path, *rows: Any, **options: Any) -> ChatTask:
    section = {"task": "chat", "train": str(write_lines(file, rows)), **options}
    made = ChatSection.model_validate(section).build("t")
    assert isinstance(made, ChatTask)
    return made


def conversations(rows: Any) -> list[Conversation]:
    found = list(rows)
    assert all(isinstance(row, Conversation) for row in found), found
    return found


def test_a_conversation_as_an_example(tmp_path: Path) -> None:
    row = {"messages": turns("sys", "one", "two", "three", "four")}
    (read,) = conversations(task(tmp_path / "f.jsonl", row).train_rows())
    assert list(read.messages) == row["messages"]
    assert (read.prompt, read.completion) == ("sys\none\ntwo\nthree", "four")
    assert (read.source, read.id, read.template, read.tools) == ("f.jsonl line 1", "", "", ())


def test_the_systems_part_does_not_make_another_question(tmp_path: Path) -> None:
    rows = [{"messages": turns(*texts)} for texts in (("sys a", "one", "two"), ("One!", "three"), ("other", "two"))]
    first, second, third = (key_of(row) for row in conversations(task(tmp_path / "f.jsonl", *rows).train_rows()))
    assert first == second != third
    assert first == key_of(Example("one", "two", "a single question of another task"))


def test_share_gpts_form_is_the_same_conversation(tmp_path: Path) -> None:
    said = [("system", "sys"), ("human", "one"), ("gpt", "two")]
    other = {"conversations": [{"from": who, "value": text} for who, text in said]}
    one = conversations(task(tmp_path / "a.jsonl", {"messages": turns("sys", "one", "two")}).train_rows())
    two = conversations(task(tmp_path / "a.jsonl", other).train_rows())
    assert one == two


def test_tools_and_calls_pass_through(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}], "name": None}
    answer = {"role": "tool", "content": "3", "name": "add"}
    row = {
        "messages": [*turns("1 + 2?"), call, answer, {"role": "assistant", "content": "3"}],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    (read,) = conversations(task(tmp_path / "f.jsonl", row).train_rows())
    assert read.messages[1] == {"role": "assistant", "content": "", "tool_calls": call["tool_calls"]}
    assert read.messages[2] == answer
    assert list(read.tools) == row["tools"]
    (only,) = conversations(task(tmp_path / "f.jsonl", {"messages": row["messages"][:2]}).train_rows())
    assert json.loads(only.completion) == call["tool_calls"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": turns("one")}, "no turn of the assistant"),
        ({"messages": turns("sys", "one")}, "no turn of the assistant"),
        ({"messages": [{"role": "assistant", "content": "one"}]}, "the assistant has the first turn"),
        ({"messages": [*turns("sys"), {"role": "assistant", "content": "a"}]}, "the assistant has the first turn"),
        (
            {"messages": [{"role": "usr", "content": "a"}]},
            "unknown label \"usr\" in field 'messages[0].role'; nearest: ",
        ),
        ({"conversations": [{"from": "humn", "value": "a"}]}, "nearest: 'human'"),
        ({"messages": turns("one", "")}, "field 'messages[1].content' is blank"),
        ({"messages": turns(" \n", "two")}, "field 'messages[0].content' is blank"),
        ({"messages": [{"role": "user"}]}, "no field 'messages[0].content'"),
        ({"messages": [{"content": "a"}]}, "no field 'messages[0].role'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a turn's content is a list of object"),
        ({"messages": [{"role": "user", "content": 3}]}, "is number where text is needed"),
        ({"messages": []}, "'messages' is an empty list"),
        ({"messages": "one"}, "is string where a list is needed"),
        ({"message": turns("one", "two")}, "no field 'messages'; nearest: 'message'"),
        ({"messages": turns("one", "\ud800")}, "lone surrogate"),
        ({"messages": turns("one", "two"), "tools": "add"}, "field 'tools' is string where a list is needed"),
        ('{"messages": [', "not JSON"),
    ],
)
def test_a_row_that_is_no_conversation_says_why_and_the_others_go_on(row: Any, why: str, tmp_path: Path) -> None:
    fine = {"messages": turns("one", "two")}
    first, bad, last = task(tmp_path / "f.jsonl", fine, row, fine).train_rows()
    assert isinstance(first, Conversation)
    assert isinstance(last, Conversation)
    assert isinstance(bad, BadRow)
    assert bad.source == "f.jsonl line 2"
    assert why in bad.why


def test_splits_ids_and_validation(tmp_path: Path) -> None:
    rows = [{"messages": turns(f"question {i}", "a"), "n": i} for i in range(40)]
    held = task(tmp_path / "f.jsonl", *rows, validation_share=0.5, id="n")
    sides = [conversations(held.train_rows()), conversations(held.eval_rows("validation"))]
    assert all(sides)
    assert sorted(int(row.id) for side in sides for row in side) == list(range(40))
    assert not {row.key for row in sides[0]} & {row.key for row in sides[1]}
    with pytest.raises(NoSplitError, match=r"no test split; name its files in tasks\.t\.test"):
        held.check("test")

    other = str(write_lines(tmp_path / "v.jsonl", rows[:3]))
    named = task(tmp_path / "f.jsonl", *rows, validation=other, test=other)
    assert [len(conversations(named.eval_rows(split))) for split in ("validation", "test")] == [3, 3]
    assert named.scoring.kind == "none"

    (bad,) = [row for row in task(tmp_path / "f.jsonl", *rows, rows[0], id="n").train_rows() if isinstance(row, BadRow)]
    assert (bad.source, bad.why) == ("f.jsonl line 41", "the id '0' stands in f.jsonl line 1 already")


def test_conversations_that_begin_alike_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"messages": turns(f"question {i % 8}", "a", f"and {i}?", "b")} for i in range(64)]
    held = task(tmp_path / "f.jsonl", *rows, validation_share=0.5)
    sides = [{row.messages[0]["content"] for row in conversations(rows)} for rows in
             (held.train_rows(), held.eval_rows("validation"))]  # fmt: skip
    assert all(sides)
    assert not sides[0] & sides[1]


def test_from_the_hubs_layout_by_its_own_split_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"messages": [*turns(f"q{i}", "a"), *turns(f"q{i}?", "b")]} for i in range(3)]
    rows[1]["messages"][1]["name"] = "only here"  # Arrow gives every message the field
    for split, some in (("train_sft", rows), ("test_sft", rows[:1])):
        write_split(tmp_path / "hub", split, some)
    section = {"task": "chat", "hub": str(tmp_path / "hub"), "train": "train_sft", "test": "test_sft"}
    hub = ChatSection.model_validate(section).build("t")
    hub.check()
    own = task(tmp_path / "f.jsonl", *rows)
    assert [row.messages for row in conversations(hub.train_rows())] == [
        row.messages for row in conversations(own.train_rows())
    ]
    assert len(conversations(hub.eval_rows("test"))) == 1
    with pytest.raises(InputError, match=r"tasks\.t\.hub: the folder .* has no file of the split 'train'"):
        ChatSection.model_validate({"task": "chat", "hub": str(tmp_path / "hub")}).build("t").check()


def test_the_template_is_a_file_or_text(tmp_path: Path) -> None:
    row = {"messages": turns("one", "two")}
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    for given in (str(file), "{{ messages }}"):
        made = task(tmp_path / "f.jsonl", row, chat_template=given)
        made.check()
        assert conversations(made.train_rows())[0].template == "{{ messages }}"
    for name, fault in (("caht.jinja", r"cannot read '.*caht\.jinja'.*nearest: 'chat\.jinja'"), ("e", "is empty")):
        (tmp_path / "e").write_text(" \n")
        with pytest.raises(InputError, match=rf"tasks\.t\.chat_template: .*{fault}"):
            task(tmp_path / "f.jsonl", row, chat_template=str(tmp_path / name)).check()
