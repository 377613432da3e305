"""The help of a configuration's fields in its docstring, from the one text beside each field."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any, TypeVar

_Config = TypeVar("_Config")


def documents_fields(cls: type[_Config]) -> type[_Config]:
    """A dataclass whose docstring has a section `Args:` with every field, its type, default and help."""
    fields: Any = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType] - a dataclass
    before, raises, after = inspect.cleandoc(cls.__doc__ or "").partition("Raises:")
    cls.__doc__ = f"{before}Args:\n{''.join(map(_entry, fields))}\n{raises}{after}"
    return cls


def _entry(field: dataclasses.Field[Any]) -> str:
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    head = f"{field.name} ({kind}, default {default!r}): "
    return (
        textwrap.fill(
            head + field.metadata["help"],
            100,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
        )
        + "\n"
    )
