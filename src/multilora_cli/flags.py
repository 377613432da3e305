"""Translates argument names in library errors to the command's flags."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def naming_flags(**flags: str) -> Generator[None]:
    """Replace the argument name at the beginning of an error with its flag.

    Args:
        flags: by argument, such as `r="--rank"`.

    Raises:
        InputError: as the library's, with the flag.
    """
    from multilora.errors import InputError

    try:
        yield
    except InputError as error:
        message = str(error)
        found = re.match(r"\w+(?=[ :])", message)
        if found is None or found[0] not in flags:
            raise
        raise InputError(flags[found[0]] + message[found.end() :]) from error
