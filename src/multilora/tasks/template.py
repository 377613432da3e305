"""Templates of prompts and completions: text with `{field}`; `{{` and `}}` stand for braces.

`{object.field}` is a field of an object in the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from multilora.errors import InputError

# Longest first: an escaped brace is two characters, a field is a pair of braces, a brace alone is a mistake.
_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Values go in as they are: no indexes, conversions or format codes.

    Attributes:
        literals: the text around the fields, one more than there are fields.
        fields: names of the fields, in order, repeats included.
    """

    literals: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template.

        Raises:
            InputError: a brace that is neither part of `{field}` nor doubled, or a field that is not a plain name.
        """
        literals, fields, literal, end = list[str](), list[str](), "", 0
        for match in _TOKEN.finditer(text):
            literal += text[end : match.start()]
            end = match.end()
            token, field = match.group(), match.group("field")
            if field is not None:
                _check_field(field)
                literals.append(literal)
                fields.append(field)
                literal = ""
            elif len(token) == 2:
                literal += token[0]
            else:
                raise InputError(
                    f"a single {token!r} at character {match.start() + 1} of the template {_shorten(text)!r}; "
                    f"write {token * 2!r} for the character itself"
                )
        return cls((*literals, literal + text[end:]), tuple(fields))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every field replaced by its value.

        Raises:
            KeyError: a field has no value.
        """
        parts = [self.literals[0]]
        for field, literal in zip(self.fields, self.literals[1:], strict=True):
            parts += (values[field], literal)
        return "".join(parts)


def _check_field(field: str) -> None:
    if not field:
        raise InputError("an empty field {} in a template; name a field of the data, or write '{{}}' for the braces")
    if any(sign in field for sign in "[]!:") or field != field.strip() or not all(field.split(".")):
        raise InputError(
            f"the template field {{{field}}} is not a plain field name: indexes, conversions, format codes and spaces "
            "at the ends are not supported. Write {name}, or {object.name} for a field of an object in the row"
        )


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


def _parsed(text: str) -> str:
    Template.parse(text)
    return text


TemplateText = Annotated[str, AfterValidator(_parsed)]
