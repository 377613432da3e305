"""Keys of rows: the same question, however it is written, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora.tasks.example import Conversation, Example
from multilora.tasks.keys import KEY_BYTES, key_of, normalised

WORDS = st.lists(st.text("abcxyzäß0123456789+=", min_size=1, max_size=5), min_size=1, max_size=6)
GAPS = st.text(" \t\n.,;:!?()[]'\"“”…_", min_size=1, max_size=4)


@given(WORDS, st.data())
def test_white_space_punctuation_and_case_do_not_count(words: list[str], data: st.DataObject) -> None:
    one, other = (data.draw(GAPS).join(words) for _ in range(2))
    assert normalised(one) == normalised(f" {other.upper()}?") == normalised(one.casefold())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is it  true?\n", "is it true"),
        ("the “trade-off” — briefly", 'The trade off: "briefly"'),
        ("①２ ﬁne", "12 fine"),
        ("co\u00adoperate", "cooperate"),
        ("caf\u00e9", "cafe\u0301"),
        ("2+3", "2 + 3"),
        ("\u22125 degrees", "-5 degrees"),
        ("fill the gap: ____.", "Fill the gap __"),
    ],
)
def test_the_same_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Q(√2, √3)", "Q(√2*√3)"),
        ("5 + 3", "5 - 3"),
        ("x = -3", "x = 3"),
        ("2/3", "2 3"),
        ("5 %", "5"),
        ("1.5", "15"),
        ("a < b", "a > b"),
        ("$5", "5"),
        ("in one", "I none"),
        ("?!", "…"),
        ("नमस्ते", "नमसत"),
    ],
)
def test_other_questions(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_the_key_is_of_the_question_and_its_choices() -> None:
    plain = Example("Which?", " a", "s", choices=(" a", " b"))
    assert len(key_of(plain)) == KEY_BYTES
    assert key_of(plain) == key_of(Example("which", " b", "elsewhere", "id", (" A", " B"), (" b",), "g"))
    assert key_of(plain) != key_of(Example("Which?", " a", "s", choices=(" a", " c")))
    wrapped = Example("As a test.\n\nWhich?\nA. a\nB. b\nAnswer:", " A", "s", choices=(" A", " B"), key="Which? a b")
    assert key_of(wrapped) == key_of(plain)
    assert key_of(Example("\ud800?", "a", "s")) != key_of(Example("\ud801?", "a", "s"))


def test_a_conversation_of_one_question_is_that_question() -> None:
    turns = ({"role": "user", "content": "Which?"}, {"role": "assistant", "content": "a"})
    talk = Conversation("Be brief.\nWhich?", "a", "s", key="Which?", messages=turns)
    assert key_of(talk) == key_of(Example("Which?", " a", "s"))
