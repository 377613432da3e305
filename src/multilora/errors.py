"""The one exception for bad input: it names the field, the value and the remedy; commands turn it into exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user: a recipe, a data row, a folder, a config field.

    The message names the field, its value and what to do about it. Anything else that goes wrong is a fault of the
    program and keeps its traceback.
    """


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`"; nearest: 'q_proj'"` for the candidate(s) spelled most like `word`, or an empty string if none is close."""
    found = difflib.get_close_matches(word, list(candidates), n=3, cutoff=0.5)
    return f"; nearest: {', '.join(map(repr, found))}" if found else ""
