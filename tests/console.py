"""The console script in this process, which has imported the libraries already: a new one takes seconds for that."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from multilora_cli import main


class Ended(NamedTuple):
    """What a command leaves for the one who started it."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


def multilora(*arguments: str | Path, columns: int = 80) -> Ended:
    """Run `multilora` with arguments on a terminal that is `columns` wide."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["multilora", *map(str, arguments)])
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as caught:
            main.run()
    return Ended(int(caught.value.code or 0), *(_text(stream) for stream in (out, err)))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
