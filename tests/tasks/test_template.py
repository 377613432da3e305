from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora import InputError
from multilora.tasks.template import Template

TEXT = st.text(max_size=40)


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(TEXT)
def test_escaped_text_stands_for_itself(text: str) -> None:
    assert Template.parse(escaped(text)).fill({}) == text


@given(TEXT, TEXT, TEXT)
def test_values_go_in_as_they_are(before: str, value: str, after: str) -> None:
    template = Template.parse(f"{escaped(before)}{{a}}{escaped(after)}")
    assert template.fields == ("a",)
    assert template.fill({"a": value}) == before + value + after


def test_fields_repeat_and_stand_side_by_side() -> None:
    assert Template.parse("{{{a}}}").fill({"a": "1"}) == "{1}"
    template = Template.parse("{a}{b c}{a}")
    assert template.fields == ("a", "b c", "a")
    assert template.fill({"a": "1", "b c": "2"}) == "121"


def test_a_dot_is_part_of_the_name_and_reaches_into_no_value() -> None:
    template = Template.parse("{a.b} {a.__class__}")
    assert template.fields == ("a.b", "a.__class__")
    assert template.fill({"a.b": "1", "a.__class__": "2"}) == "1 2"
    with pytest.raises(KeyError):
        template.fill({"a": "1"})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{a", "single '{' at character 1"),
        ("ab}", "single '}' at character 3"),
        ("{}", "empty field"),
        ("{a.}", "not a plain field name"),
        ("{.a}", "not a plain field name"),
        ("{a[0]}", "not a plain field name"),
        ("{a!r}", "not a plain field name"),
        ("{a:>10}", "not a plain field name"),
        ("{ a}", "not a plain field name"),
    ],
)
def test_anything_but_plain_fields_is_refused(text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        Template.parse(text)
