"""What the sections of a recipe are made of: numbers, paths with `${NAME}`, and the base class of every section."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from multilora.errors import InputError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


KEEP_UNSET = "keep_unset"  # in the validation's context: a variable that is not set stays as it is written


def expand(value: Any, info: ValidationInfo) -> Any:
    """`${NAME}` and a leading `~` in a path."""
    keep = bool(info.context and info.context.get(KEEP_UNSET))

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            if keep:
                return match.group(0)
            raise InputError(f"the environment variable {name} is not set; set it, or write the path itself")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(replace, value)) if isinstance(value, str) else value


def not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise InputError(f"must be a number; got {value!r}")
    return value


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


# pydantic would take true for 1, and reads the text "1e-4", which is what YAML makes of a bare 1e-4, as a number.
Integer = Annotated[int, BeforeValidator(not_bool)]
Number = Annotated[float, BeforeValidator(not_bool)]
PathText = Annotated[Path, BeforeValidator(expand)]


class Section(BaseModel):
    """What all sections share: unknown keys, NaN and infinity are refused; nothing changes after validation.

    Attributes:
        FREE_TO_CHANGE: fields that do not determine the trained weights (`Recipe.determining`).
    """

    FREE_TO_CHANGE: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
