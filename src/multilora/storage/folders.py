"""Folders and files that appear complete or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from multilora.errors import InputError


@contextmanager
def written_aside(final: Path, aside: Path | None = None) -> Generator[Path]:
    """Yield a new folder to write into; when the block ends without an error, it becomes `final`.

    An earlier `final` is replaced. What a killed process left under `aside` is removed first.

    Args:
        final: the folder's place.
        aside: where it is written, on the same file system; `.NAME.incomplete` beside `final` if None.
    """
    aside = aside_of(final) if aside is None else aside
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (*aside.rglob("*"), aside):
            sync(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replace_folder(final, by=aside)


@contextmanager
def new_folder(target: Path, *, overwrite: bool, replaceable: Collection[str]) -> Generator[Path]:
    """As `written_aside`, for an output folder that a user named: what is there is replaced only if it may be.

    Args:
        target: the folder to create; missing parents are created. It may exist and be empty.
        overwrite: replace it if it has files.
        replaceable: names of the files that may be replaced with the folder; any other file in it is somebody's.

    Raises:
        InputError: `target` is a file, has files and `overwrite` is off, has files that are not `replaceable`, or
            cannot be created.
    """
    place = output_place(target, overwrite=overwrite, replaceable=replaceable)
    with written_aside(place) as partial:
        yield partial
        check_output(target, overwrite, replaceable)  # others may have written meanwhile


def output_place(target: Path, *, overwrite: bool, replaceable: Collection[str]) -> Path:
    """Where an output folder that a user named really is, links resolved, after the checks that `new_folder` makes.

    Its parent folder exists then. Arguments and errors as of `new_folder`.
    """
    place = target.resolve()  # a link to a folder keeps being one
    restore_replaced(place)
    check_output(target, overwrite, replaceable)
    make_writable(place.parent, f"cannot create the output folder {str(target)!r}")
    return place


def make_writable(folder: Path, fault: str) -> None:
    """Create a folder if it does not exist, and check that it is writable, before hours of work rather than after.

    Args:
        folder: the folder.
        fault: what cannot be done without it, as the message begins.

    Raises:
        InputError: it cannot be created or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{fault}: {error.strerror}; name a place that can be written") from error


def aside_of(final: Path) -> Path:
    """The folder beside `final` in which it is written."""
    return final.with_name(f".{final.name}.incomplete")


def replace_folder(path: Path, by: Path) -> None:
    """Put the folder `by` into the place of `path`, whose old content is deleted only when the new one is there.

    A kill between the two renames leaves the old content in `replaced_name(path)`; `restore_replaced` brings it back.
    """
    old = replaced_name(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        by.rename(path)
    except OSError:
        restore_replaced(path)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_replaced(path: Path) -> None:
    """Undo a `replace_folder` that was killed before the new folder was in place."""
    if replaced_name(path).exists() and not path.exists():
        replaced_name(path).rename(path)


def replaced_name(path: Path) -> Path:
    """Where `replace_folder` keeps the old folder for a moment."""
    return path.with_name(f".{path.name}.replaced")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it has its old content or the new one, never a part."""
    aside = path.with_name(f".{path.name}.incomplete")
    try:
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def is_empty(path: Path) -> bool:
    """There is no such folder, or nothing is in it."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk now."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(target: Path, overwrite: bool, replaceable: Collection[str]) -> None:
    """What an output folder holds may be replaced. Arguments and errors as of `new_folder`."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"the output folder {str(target)!r} is a file; name a folder that does not exist yet")
    names = sorted(entry.name for entry in target.iterdir())
    if names and not overwrite:
        raise InputError(
            f"the output folder {str(target)!r} is not empty (it has {_some(names)}); name another, or overwrite it "
            "(--overwrite, overwrite=True)"
        )
    if strangers := [name for name in names if name not in replaceable]:
        raise InputError(
            f"the output folder {str(target)!r} has files that overwriting would lose: {_some(strangers)}. Move them "
            "away, or name another folder"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
