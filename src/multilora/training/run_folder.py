"""The run folder: what may be done with the output folder, and its first files."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from multilora.data.encoding import EncodedTask
from multilora.errors import InputError
from multilora.folders import is_empty, replace_folder, restore_replaced, written_aside
from multilora.recipe import NOT_DETERMINING, Recipe


@dataclass(frozen=True)
class RunFolder:
    """An output folder that was checked and, until `claim`, left as it is.

    Attributes:
        path: the folder.
        resumes: it holds an interrupted run of this recipe, to go on with.
        finished: it holds a finished run of this recipe.
    """

    path: Path
    resumes: bool = False
    finished: bool = False

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        """Counts and fingerprints of the data that the run began with."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """One line per validation."""
        return self.path / "validation.jsonl"

    @property
    def best(self) -> Path:
        """The best weights, where the recipe asks for them."""
        return self.path / "best"

    @property
    def results(self) -> Path:
        """The figures of the finished run; there only when everything else is."""
        return self.path / "results.json"

    @classmethod
    def check(cls, recipe: Recipe, resume: bool, overwrite: bool) -> RunFolder:
        """Find out what a run may do with its output folder.

        Raises:
            InputError: the folder is in use by something else, or by another recipe's run.
        """
        path = recipe.training.output
        field = f"training.output: {str(path)!r}"
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: give the one that is meant")
        restore_replaced(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{field} is a file; choose a folder")
        folder = cls(path)
        if is_empty(path):
            return folder
        if not folder.recipe.is_file():
            raise InputError(
                f"{field} is not empty and holds no run (it has no recipe.yaml); choose another folder, or empty it"
            )
        if overwrite:
            return folder
        if not resume:
            raise InputError(
                f"{field} holds a run already; --resume goes on with it, --overwrite replaces it, and another "
                "training.output leaves it alone"
            )
        differing = _differences(_recorded(folder.recipe), recipe.determining())
        if differing:
            raise InputError(
                f"{field} holds a run of another recipe, so it cannot be resumed. Recorded there and given now: "
                f"{'; '.join(differing)}. Change these back, or choose another training.output"
            )
        return cls(path, resumes=True, finished=folder.results.is_file())

    def check_data(self, encoded: Sequence[EncodedTask]) -> None:
        """A run that is resumed goes on with the rows that it began with.

        Raises:
            InputError: a task's rows are not the same any more.
        """
        if not self.resumes:
            return
        recorded = json.loads(self.data.read_text(encoding="utf-8"))
        changed = [task.name for task in encoded if recorded[task.name]["fingerprint"] != task.fingerprint()]
        if changed:
            raise InputError(
                f"the rows of {', '.join(changed)} have changed since the run in {str(self.path)!r} began (or the "
                "tokenizer has), so it cannot be resumed; bring them back, or choose another training.output"
            )

    def claim(self, recipe: Recipe, encoded: Sequence[EncodedTask]) -> None:
        """Make the folder this run's own: with its recipe and its data's record at once, or not at all."""
        if self.resumes:
            return
        aside = self.path.with_name(f".{self.path.name}.new")
        with written_aside(aside) as new:
            text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
            (new / self.recipe.name).write_text(text, encoding="utf-8")
            record = {task.name: {"fingerprint": task.fingerprint(), **asdict(task.counts)} for task in encoded}
            (new / self.data.name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        replace_folder(self.path, by=aside)

    @contextmanager
    def created_by_the_trainer(self) -> Generator[None]:
        """transformers creates the output folder as soon as a trainer is made; if that fails, it goes again."""
        existed = self.path.exists()
        try:
            yield
        except BaseException:
            if not existed and self.path.exists() and is_empty(self.path):
                self.path.rmdir()
            raise


def _recorded(path: Path) -> dict[str, Any]:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in NOT_DETERMINING:
        cast(dict[str, Any], data["training"]).pop(name, None)
    return data


def _differences(recorded: dict[str, Any], given: dict[str, Any]) -> list[str]:
    before, now = _flat(recorded), _flat(given)
    return [
        f"{key} {before.get(key, 'absent')!r} and {now.get(key, 'absent')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
