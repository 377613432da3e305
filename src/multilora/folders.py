"""An output folder that appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from multilora.errors import InputError


@contextmanager
def new_folder(target: Path, *, overwrite: bool, replaceable: Collection[str]) -> Generator[Path]:
    """A folder to write into, beside `target`, that takes the place of `target` when the block ends without error.

    An error or a kill at any moment leaves `target` as it was. One exception: when `target` has files already and
    the kill falls between the two renames that exchange the folders, the former one is found beside it as
    `.<name>.old-<digits>`. A kill leaves `.<name>.partial-<digits>` behind, which can be deleted.

    Args:
        target: the folder to create; missing parents are created. It may exist and be empty.
        overwrite: replace it if it has files.
        replaceable: names of the files that may be replaced with the folder; any other file in it is somebody's.

    Raises:
        InputError: `target` is a file, has files and `overwrite` is off, has files that are not `replaceable`, or
            cannot be created.
    """
    _check(target, overwrite, replaceable)
    place = target.resolve()  # a link to a folder keeps being one
    token = secrets.token_hex(4)
    partial, old = (place.with_name(f".{place.name}.{kind}-{token}") for kind in ("partial", "old"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise InputError(f"cannot create the output folder {str(target)!r}: {error.strerror}") from error
    try:
        yield partial
        sync(partial)
        _check(target, overwrite, replaceable)  # others may have written meanwhile
        if place.exists():
            place.rename(old)
        try:
            partial.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        sync(place.parent)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    if old.exists():
        shutil.rmtree(old)


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk now."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(target: Path, overwrite: bool, replaceable: Collection[str]) -> None:
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
