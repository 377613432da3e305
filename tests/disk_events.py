"""Errors and kills at a moment on the disk: the k-th time that a file is opened for writing, renamed or removed.

Python reports these to audit hooks, so nothing of the code under test is replaced, and a moment is named by what a kill
leaves on the disk. (What extension modules write by themselves, as safetensors does, is not reported.)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["write", "rename", "remove"]


@dataclass(frozen=True)
class Moment:
    """Just before an event.

    Attributes:
        path: the end of the path that is written, renamed or removed, as `Path.match` takes it; or a folder (absolute),
            with everything below it.
        kind: what is done with it; None: any of the three.
        count: the first time, the second time, …
        after: count from the renaming of this path (its end) on.
    """

    path: str
    kind: Kind | None = None
    count: int = 1
    after: str | None = None


def die_at(moment: Moment) -> None:
    """Have this process kill itself at a moment."""
    _at(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))


@contextmanager
def failing_at(moment: Moment, error: BaseException) -> Generator[None]:
    """Raise an error at a moment."""

    def fail() -> None:
        raise error

    watcher = _at(moment, fail)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def events_below(folder: Path) -> Generator[list[tuple[Kind, Path]]]:
    """The events in a folder, in their order."""
    seen: list[tuple[Kind, Path]] = []

    def remember(kind: Kind, path: Path) -> None:
        if path.is_relative_to(folder):
            seen.append((kind, path))

    _watch(remember)
    try:
        yield seen
    finally:
        _watchers.remove(remember)


Watcher = Callable[[Kind, Path], None]
_watchers: list[Watcher] = []


def _at(moment: Moment, act: Callable[[], None]) -> Watcher:
    passed, counts = 0, moment.after is None

    def watcher(kind: Kind, path: Path) -> None:
        nonlocal passed, counts
        if not counts:
            counts = kind == "rename" and path.match(str(moment.after))
            return
        below = Path(moment.path).is_absolute() and path.is_relative_to(moment.path)
        if moment.kind in (None, kind) and (below or path.match(moment.path)):
            passed += 1
            if passed == moment.count:
                act()

    return _watch(watcher)


def _watch(watcher: Watcher) -> Watcher:
    if not _installed:
        sys.addaudithook(_audit)  # there is no way to remove it
        _installed.append(True)
    _watchers.append(watcher)
    return watcher


_installed: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    match event, arguments:
        case "open", (path, _, int() as flags) if flags & (os.O_WRONLY | os.O_RDWR):
            kind: Kind = "write"
        case "os.rename", (path, *_):
            kind = "rename"
        case (("os.remove" | "os.rmdir" | "shutil.rmtree"), (path, *_)):
            kind = "remove"
        case _:
            return
    if isinstance(path, str | bytes | os.PathLike):  # not an open file's number
        for watcher in list(_watchers):
            watcher(kind, Path(os.fsdecode(path)))
