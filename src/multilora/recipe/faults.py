"""The faults of a recipe, one line per field: pydantic's errors in a recipe's terms."""

from __future__ import annotations

import re
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from multilora.errors import nearest
from multilora.recipe import Recipe
from multilora.recipe.places import alternatives, section_at
from multilora.tasks.registry import tasks_with
from multilora.tasks.section import TaskSection

_NAMED = 3  # tasks, where an option of theirs stands in another task's section


def faults_of(error: ValidationError, data: dict[str, Any]) -> list[str]:
    """One line for each field that is wrong. A union (list or text) has an error per branch; they become one line."""
    by_field: dict[tuple[str | int, ...], list[str]] = {}
    for detail in error.errors(include_url=False):
        field = _field_path(detail["loc"], detail["type"], data)
        message = _message(dict(detail), field, data)
        messages = by_field.setdefault(field, [])
        if message not in messages:
            messages.append(message)
    return [": ".join(filter(None, (_dotted(field), _joined(texts)))) for field, texts in by_field.items()]


def _dotted(field: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field).removeprefix(".")


def _joined(messages: list[str]) -> str:
    if len(messages) == 1:
        return messages[0]
    parts = [message.removeprefix("must be ").partition("; got ") for message in messages]
    got = max((part[2] for part in parts), key=len)  # the longest also names what is nearest
    return f"must be {' or '.join(part[0] for part in parts)}; got {got}"


def _field_path(loc: tuple[str | int, ...], kind: str, data: Any) -> tuple[str | int, ...]:
    """`loc` without what pydantic adds to it: names of union branches, indexes into lists made from one value."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            path.append(part)
            data = cast(Any, data)[part]
        elif number == len(loc) - 1 and kind == "missing":
            path.append(part)
    return tuple(path)


def _message(detail: dict[str, Any], field: tuple[str | int, ...], data: dict[str, Any]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(field[-1]), section_at(Recipe, field[:-1], data))
    if kind == "missing":
        section = section_at(Recipe, field[:-1], data)
        about = section.model_fields[str(field[-1])].description if section else None
        return f"missing. {about.split('. ')[0].rstrip('.')}" if about else "missing"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        key, known = str(context["discriminator"]).strip("'"), alternatives(Recipe, field)
        name = cast(dict[str, Any], value).get(key) if isinstance(value, dict) else value
        near = nearest(name, known) if isinstance(name, str) else ""
        return f"{key} must be one of {', '.join(known)}; got {name!r}{near}"
    if kind == "literal_error":
        expected = context["expected"]
        choices = re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)  # numbers have no quotes
        return f"must be one of {', '.join(choices)}; got {value!r}{nearest(str(value), choices)}"
    text = detail["msg"].replace("Input should be", "must be").partition(", unable to")[0]
    return f"{text[0].lower()}{text[1:]}; got {short(value)}"


def short(value: Any) -> str:
    """The value for a message, cut after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _unknown_key(key: str, section: type[BaseModel] | None) -> str:
    known = list(section.model_fields) if section else []
    text = "unknown key" + (nearest(key, known) or f"; known: {', '.join(known)}")
    if section and issubclass(section, TaskSection) and (others := tasks_with(key)):
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text += f"; {key!r} is an option of {', '.join(others[:_NAMED])}{more}"
    return text
