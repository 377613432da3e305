"""Folders and files that exist only when they are complete, whenever the process is killed."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from multilora.folders import sync


@contextmanager
def written_aside(final: Path, aside: Path | None = None) -> Generator[Path]:
    """Yield a new folder to write into; when the block ends without an error, it becomes `final`.

    An earlier `final` is replaced. What a killed process left under `aside` is removed first.

    Args:
        final: the folder's place.
        aside: where it is written, on the same file system; None: `.NAME.incomplete` beside `final`.
    """
    aside = final.with_name(f".{final.name}.incomplete") if aside is None else aside
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for path in (*aside.rglob("*"), aside):
        sync(path)
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    sync(final.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it has its old content or the new one, never a part."""
    aside = path.with_name(f".{path.name}.incomplete")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def is_empty(path: Path) -> bool:
    """There is no such folder, or nothing is in it."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def replace_folder(path: Path, by: Path) -> None:
    """Put the folder `by` into the place of `path`, whose old content is deleted only when the new one is there.

    A kill between the two renames leaves the old content in `replaced_name(path)`; `restore_replaced` brings it back.
    """
    old = replaced_name(path)
    shutil.rmtree(old, ignore_errors=True)
    if is_empty(path):
        if path.exists():
            path.rmdir()
    else:
        path.rename(old)
    by.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_replaced(path: Path) -> None:
    """Undo a `replace_folder` that was killed before the new folder was in place."""
    if replaced_name(path).exists() and not path.exists():
        replaced_name(path).rename(path)


def replaced_name(path: Path) -> Path:
    """Where `replace_folder` keeps the old folder for a moment."""
    return path.with_name(f".{path.name}.replaced")
