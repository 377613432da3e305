"""Kinds of values in a recipe: numbers, paths with `${NAME}`, templates, trackers; and what all sections share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from multilora.data.template import Template
from multilora.errors import InputError, nearest

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


def parsed(text: str) -> str:
    Template.parse(text)
    return text


def known_tracker(name: str) -> str:
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    if name not in known:
        raise InputError(f"unknown tracker {name!r}{nearest(name, known)}; known: {', '.join(sorted(known))}")
    available = integration_utils.get_available_reporting_integrations()
    if name not in available:
        install = "`pip install multilora[tensorboard]`" if name == "tensorboard" else "install its own package"
        raise InputError(f"the tracker {name!r} is not installed; {install}, or leave it out")
    return name


# pydantic would take true for 1, and reads the text "1e-4", which is what YAML makes of a bare 1e-4, as a number.
Integer = Annotated[int, BeforeValidator(not_bool)]
Number = Annotated[float, BeforeValidator(not_bool)]
PathText = Annotated[Path, BeforeValidator(expand)]
TemplateText = Annotated[str, AfterValidator(parsed)]


class Section(BaseModel):
    """What all sections share: unknown keys, NaN and infinity are refused; nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
