"""Data sets of the Hugging Face Hub, through `datasets`: Arrow on disk, mapped into memory and read row by row.

No code that comes with a data set is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from multilora.errors import InputError, nearest

_FORMATS: Mapping[str, str] = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


@dataclass(frozen=True, slots=True)
class OnHub:
    """Where a data set usually stands on the Hub.

    Attributes:
        id: its id.
        config: the configuration; None if it has only one.
        splits: the Hub's split of each part of the data set.
        columns: the columns that are read; another id must have them too.
    """

    id: str
    config: str | None
    splits: Mapping[str, str]
    columns: Sequence[str]


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub, or in a local folder in the Hub's layout.

    In a local folder the files of a split are `SPLIT.parquet`, `SPLIT-*.parquet` or `SPLIT/*.parquet`, or the same with
    jsonl, in the configuration's own folder, else in `data`, else in the folder itself.

    Attributes:
        place: what names the data set in the recipe, for messages, such as `tasks.a.hub`.
        id: the id on the Hub, or the folder.
        config: the data set's configuration; None if it has only one.
        revision: branch, tag or commit on the Hub; None for main.
    """

    place: str
    id: str
    config: str | None = None
    revision: str | None = None

    def check(self, splits: Sequence[str]) -> None:
        """Check that a local folder has files for the splits. Makes no network request and downloads nothing.

        Raises:
            InputError: the folder does not exist or lacks files for a split.
        """
        if self.folder is not None:
            for split in splits:
                self._local_files(self.folder, split)

    def rows(self, split: str, needed: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows with their places, one at a time. Class labels are their names; unknown ones (-1) stay numbers.

        Args:
            split: the split's name.
            needed: columns that it must have.

        Raises:
            InputError: the data set cannot be had, or has other columns.
        """
        from datasets import ClassLabel

        table = self._table(split)
        columns = cast(dict[str, Any], table.features)
        if absent := [column for column in needed if column not in columns]:
            raise InputError(
                f"{self.place}: the split {split!r} of {self._name} has no column {absent[0]!r}"
                f"{nearest(absent[0], columns)}. It has {', '.join(columns)}; name a data set with {', '.join(needed)}"
            )
        names: dict[str, list[str]] = {
            column: kind.names for column, kind in columns.items() if isinstance(kind, ClassLabel)
        }
        where = f"{self.id}{f'/{self.config}' if self.config else ''} {split}"
        for number, row in enumerate(cast(Iterator[dict[str, Any]], iter(table)), start=1):
            for column, known in names.items():
                if isinstance(value := row[column], int) and 0 <= value < len(known):
                    row[column] = known[value]
            yield f"{where} row {number}", row

    def files(self, split: str) -> list[Path]:
        """The files that the split's rows are read from: of the Hub, those on disk after the download.

        Raises:
            InputError: the data set cannot be had.
        """
        if self.folder is not None:
            return self._local_files(self.folder, split)
        return [Path(file["filename"]) for file in self._table(split).cache_files]

    @cached_property
    def folder(self) -> Path | None:
        """The local folder; None if the id is one on the Hub."""
        folder = Path(self.id)
        if folder.is_dir():
            if self.revision is not None:
                raise InputError(
                    f"{self.place}: {self.id!r} is a local folder, which has no revision {self.revision!r}; leave "
                    "revision out"
                )
            return folder
        if folder.is_absolute() or self.id.startswith((".", "~")) or len(folder.parts) > 2:
            names = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise InputError(f"{self.place}: no folder {self.id!r}{nearest(folder.name, names)}")
        return None

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return {}

    def _table(self, split: str) -> Any:
        if split not in self._tables:
            self._tables[split] = self._load(split)
        return self._tables[split]

    def _load(self, split: str) -> Any:
        import datasets
        from datasets.exceptions import DatasetGenerationError

        try:
            if self.folder is None:
                return datasets.load_dataset(
                    self.id, self.config, split=split, revision=self.revision, keep_in_memory=False
                )
            files = self._local_files(self.folder, split)
            names = [str(file.resolve()) for file in files]
            kind = _FORMATS[files[0].suffix]
            return datasets.load_dataset(kind, data_files={"data": names}, split="data", keep_in_memory=False)
        except InputError:
            raise
        except Exception as error:  # offline, not found, gated, scripts, broken files: each library has its own class
            cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None  # it says nothing itself
            reason = str(cause or error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(
                f"{self.place}: cannot load the split {split!r} of {self._name}: {reason}. {self._remedy()}"
            ) from error

    @property
    def _name(self) -> str:
        return f"{self.id!r}" + (f", configuration {self.config!r}" if self.config else "")

    def _remedy(self) -> str:
        if self.folder is not None:
            return "Fetch the files again"
        from huggingface_hub.constants import is_offline_mode

        network = "unset HF_HUB_OFFLINE to let it be fetched" if is_offline_mode() else "check the network"
        return (
            f"Check the id, and {network}; or name a local folder in the Hub's layout here, or leave hub out and name "
            "files: in folder for a built-in data set, else in train"
        )

    def _local_files(self, folder: Path, split: str) -> list[Path]:
        places = [folder / self.config] if self.config else []
        for place in [*places, folder / "data", folder]:
            for suffix in _FORMATS:
                for pattern in (f"{split}{suffix}", f"{split}-*{suffix}", f"{split}/*{suffix}"):
                    if found := sorted(place.glob(pattern)):
                        return found
        where = f" (in {self.config}, data or the folder itself)" if self.config else " (in data or the folder itself)"
        raise InputError(
            f"{self.place}: the folder {self.id!r} has no file of the split {split!r}, such as "
            f"{split}-00000-of-00001.parquet or {split}.jsonl{where}"
        )
