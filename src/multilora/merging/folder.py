"""The folder of a merge: written aside, with a record of the complete files, and put in its place at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from multilora.errors import InputError
from multilora.merging.files import os_errors_as_input_errors
from multilora.storage.folders import aside_of, replace_folder, replaced_name, sync, write_text
from multilora.storage.rounding import TensorRounding

REPORT_FILE = "merge_report.json"
_PROGRESS_FILE = ".merge_progress.json"
_PART = ".part"


class MergeFolder:
    """The output folder while it is written, in a `with` block; a killed merge continues where it stopped.

    Nothing in it looks like a model before it is one: a shard gets its name when it is complete, and what makes the
    folder a model (configuration, index) comes last. Of a merge that ends with an error, complete shards are kept.

    Args:
        place: the output folder.
        inputs: a digest of everything that the result depends on: what another one left is removed.

    Attributes:
        path: where to write.
        is_resumed: files of an interrupted merge are there.

    Raises:
        InputError: another process writes there, or the folder cannot be written.
    """

    def __init__(self, place: Path, inputs: str) -> None:
        self._place, self._inputs = place, inputs
        self.path = aside_of(place)
        self._lock: int | None = None
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self.is_resumed = False

    def __enter__(self) -> MergeFolder:
        try:
            with os_errors_as_input_errors(self.path):
                self.path.mkdir(exist_ok=True)
                self._lock = _locked(self.path)
                self._take_over()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: object) -> None:
        try:
            if kind is not None and self.path.exists():
                for part in self.path.glob(f"*{_PART}"):
                    part.unlink(missing_ok=True)
                if not self._shards:
                    shutil.rmtree(self.path, ignore_errors=True)
        finally:
            self._unlock()

    def finished(self, name: str, size: int) -> list[TensorRounding] | None:
        """What is known of a complete shard; None if it has to be written."""
        file = self.path / name
        if name not in self._shards or not file.is_file() or file.stat().st_size != size:
            return None
        return [TensorRounding(**entry) for entry in self._shards[name]]

    def part(self, name: str) -> Path:
        """Where a shard is written until it is complete."""
        return self.path / f"{name}{_PART}"

    def finish(self, name: str, rounding: Sequence[TensorRounding]) -> None:
        """A shard is complete, and on the disk under its part's name."""
        with os_errors_as_input_errors(self.path):
            self.part(name).replace(self.path / name)
            sync(self.path)
            self._shards[name] = [asdict(entry) for entry in rounding]
            record = {"inputs": self._inputs, "shards": self._shards}
            write_text(self.path / _PROGRESS_FILE, json.dumps(record))

    def publish(self, report: Mapping[str, Any]) -> None:
        """Write the report, and put the folder in its place; an earlier one is replaced."""
        with os_errors_as_input_errors(self._place):
            for path in self.path.rglob("*"):
                sync(path)
            write_text(self.path / REPORT_FILE, json.dumps(report, indent=1) + "\n")
            replace_folder(self._place, by=self.path)
            _clean(self._place)

    def _take_over(self) -> None:
        record = _read(self.path / _PROGRESS_FILE)
        shards = record.get("shards")
        if record.get("inputs") == self._inputs and isinstance(shards, dict):
            self._shards = cast(dict[str, list[dict[str, Any]]], shards)
            self.is_resumed = bool(self._shards)
        keep = {_PROGRESS_FILE, *self._shards}
        for entry in self.path.iterdir():
            if entry.name not in keep:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if not self._shards:
            (self.path / _PROGRESS_FILE).unlink(missing_ok=True)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def complete_report(place: Path, inputs: str) -> Mapping[str, Any] | None:
    """The report of the output folder, if it holds the complete result of these very inputs.

    What a kill in the last moment left in it and beside it is removed.
    """
    report = _read(place / REPORT_FILE)
    files = report.get("files")
    if report.get("inputs") != inputs or not isinstance(files, dict):
        return None
    for name, size in cast(dict[str, Any], files).items():
        if not (place / name).is_file() or (place / name).stat().st_size != size:
            return None
    _clean(place)
    return report


def files_of_report(place: Path) -> set[str]:
    """Names in an output folder that an earlier merge wrote; empty where there was none."""
    files = _read(place / REPORT_FILE).get("files")
    if not isinstance(files, dict):
        return set()
    return {name.partition("/")[0] for name in cast(dict[str, Any], files)} | {REPORT_FILE, _PROGRESS_FILE}


def _clean(place: Path) -> None:
    """Remove what is of no use in a folder that is complete, and the one that it replaced."""
    (place / _PROGRESS_FILE).unlink(missing_ok=True)
    shutil.rmtree(replaced_name(place), ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """A handle whose lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"another merge is writing {str(folder)!r} at this moment; wait for its end, or name another output folder"
        ) from None
    return handle


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is absent or damaged, as a kill may leave it."""
    try:
        raw: Any = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], raw) if isinstance(raw, dict) else {}
