"""Texts that no task trains on, for measuring forgetting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from multilora.errors import InputError
from multilora.tasks.rows import UnusableRowError, json_type, near_file, parse_object


def read_texts(files: Sequence[Path], field: str) -> list[str]:
    """The texts of all files, in order; blank ones are left out.

    Args:
        files: `.txt` (one text), `.json` (an array of texts, or of objects with a field `text`) or JSON lines of such
            objects.
        field: what names the files in the recipe, for messages.

    Raises:
        InputError: a file cannot be read or has another format, or the files hold no text.
    """
    texts: list[str] = []
    for file in files:
        try:
            texts += (text for text in _texts(file) if text.strip())
        except OSError as error:
            raise InputError(f"{field}: cannot read {str(file)!r}: {error.strerror}{near_file(file)}") from error
        except (ValueError, UnusableRowError) as error:
            raise InputError(f"{field}: {str(file)!r}: {error}") from error
    if not texts:
        raise InputError(f"{field}: no text in {', '.join(repr(str(file)) for file in files)}; all are blank")
    return texts


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".txt":
        yield file.read_text(encoding="utf-8")
    elif file.suffix == ".json":
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise UnusableRowError(f"a JSON {json_type(rows)} where an array is needed")
        for number, row in enumerate(cast(list[Any], rows), start=1):
            yield row if isinstance(row, str) else _text(row, f"row {number}")
    else:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _text(parse_object(line), f"line {number}")


def _text(row: Any, place: str) -> str:
    text = cast(dict[str, Any], row).get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise UnusableRowError(f"{place} is neither a text nor an object with a field 'text' that is one")
    return text
