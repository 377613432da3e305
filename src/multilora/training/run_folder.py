"""The run folder: what may be done with the output folder, and its first files."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.streaming import StreamedMixture
from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.recipe.differences import differing, flat
from multilora.recipe.method import as_recorded
from multilora.runs.layout import RunLayout
from multilora.runs.records import DataRecord
from multilora.storage.folders import is_empty, replace_folder, restore_replaced, written_aside

# How the rows of a step are dealt out: to processes, to forward passes.
_DEALING = ("batch_size", "gradient_accumulation")


@dataclass(frozen=True)
class RunFolder(RunLayout):
    """An output folder that was checked and, until `claim`, left as it is.

    Attributes:
        path: the folder.
        resumes: it holds an interrupted run of this recipe, which can be resumed.
        finished: it holds a finished run of this recipe.
        dealt_before: resumed with other processes, batch_size or gradient_accumulation than it began with: what they
            were. Each step has the same rows all the same.
    """

    resumes: bool = False
    finished: bool = False
    dealt_before: str | None = None

    @classmethod
    def check(cls, recipe: Recipe, resume: bool, overwrite: bool, processes: int = 1) -> RunFolder:
        """Find out what a run may do with its output folder.

        Args:
            recipe: the recipe.
            resume: continue the run that it holds.
            overwrite: replace the run that it holds.
            processes: how many train.

        Raises:
            InputError: the folder is in use by something else, or by another recipe's run.
        """
        path = recipe.training.output
        field = f"training.output: {str(path)!r}"
        if resume and overwrite:
            raise InputError(
                "--resume and --overwrite (resume=True, overwrite=True) exclude each other: give the one that is meant"
            )
        restore_replaced(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{field} is a file; choose a folder")
        folder = cls(path)
        if is_empty(path):
            return folder
        if lacking := [file.name for file in (folder.recipe, folder.data) if not file.is_file()]:
            raise InputError(
                f"{field} is not empty and holds no run (it has no {' and no '.join(lacking)}); choose another folder, "
                "or empty it"
            )
        if overwrite:
            return folder
        if not resume:
            raise InputError(
                f"{field} holds a run already; resume it (--resume, resume=True), overwrite it (--overwrite, "
                "overwrite=True), or choose another training.output to leave it alone"
            )
        recorded, given = _recorded(folder.recipe), recipe.determining()
        finished = folder.results.is_file()
        began_on = _began_on(folder.data)
        before, now = _dealing(recorded, began_on), _dealing(given, processes)
        if not finished:
            _check_dealing(field, before, now, recipe.mixture.streaming)
        for data in (recorded, given):
            for name in _DEALING:
                del data["training"][name]
        if differences := _differences(recorded, given):
            raise InputError(
                f"{field} holds a run of another recipe, so it cannot be resumed. Recorded there and given now: "
                f"{'; '.join(differences)}. Change these back, or choose another training.output"
            )
        return cls(path, resumes=True, finished=finished, dealt_before=None if before == now else str(before))

    def check_data(self, mixture: EncodedMixture | StreamedMixture) -> None:
        """Check that a resumed run trains on the rows that it began with.

        Raises:
            InputError: a task's rows are not the same any more.
        """
        if not self.resumes:
            return
        recorded = DataRecord.read(self.data).tasks
        part = mixture.RESUME_KEY
        changed = [name for name, now in mixture.record().items() if recorded[name][part] != now[part]]
        if changed:
            what = "rows" if isinstance(mixture, EncodedMixture) else "files (names, sizes, times)"
            why = " (or the tokenizer has)" if isinstance(mixture, EncodedMixture) else ""
            raise InputError(
                f"the {what} of {', '.join(changed)} have changed since the run in {str(self.path)!r} began{why}, so "
                "it cannot be resumed; bring them back, or choose another training.output"
            )

    def claim(self, recipe: Recipe, mixture: EncodedMixture | StreamedMixture, processes: int = 1) -> None:
        """Make the folder this run's own: with its recipe and its data's record at once, or not at all."""
        if self.resumes:
            return
        aside = self.path.with_name(f".{self.path.name}.new")
        with written_aside(aside) as new:
            text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
            (new / self.recipe.name).write_text(text, encoding="utf-8")
            record = DataRecord(processes=processes, tasks=mixture.record())
            (new / self.data.name).write_text(record.text(), encoding="utf-8")
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


@dataclass(frozen=True)
class _Dealing:
    """How the rows of a step are distributed over processes and batches."""

    batch_size: int
    gradient_accumulation: int
    processes: int

    @property
    def rows(self) -> int:
        return self.batch_size * self.gradient_accumulation * self.processes

    def __str__(self) -> str:
        return (
            f"batch_size {self.batch_size}, gradient_accumulation {self.gradient_accumulation} and {self.processes} "
            f"{'process' if self.processes == 1 else 'processes'}"
        )


def _dealing(recipe: dict[str, Any], processes: int) -> _Dealing:
    training = cast(dict[str, int], recipe["training"])
    return _Dealing(training["batch_size"], training["gradient_accumulation"], processes)


def _check_dealing(field: str, before: _Dealing, now: _Dealing, streaming: bool) -> None:
    if streaming and before.processes != now.processes:
        raise InputError(
            f"{field} holds a run with mixture.streaming on {before.processes} processes, and each of them reads "
            f"different rows, so it cannot be resumed on {now.processes}; start {before.processes} with torchrun "
            "--nproc_per_node, or choose another training.output"
        )
    if before.rows != now.rows:
        raise InputError(
            f"{field} holds a run whose steps have {before.rows} rows ({before}); now they would have {now.rows} "
            f"({now}), so it cannot be resumed. Make the product equal, or choose another training.output"
        )


def _recorded(path: Path) -> dict[str, Any]:
    """What determines the recorded run."""
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        data["training"].pop("report_to", None)  # a tracker may be gone, and matters not
        return Recipe.model_validate(as_recorded(data)).determining()
    except (ValidationError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} is no recipe that this version of multilora can read, so the run cannot be resumed; "
            f"choose another training.output, or overwrite it (--overwrite, overwrite=True): {error}"
        ) from error


def _began_on(path: Path) -> int:
    """Number of processes that the recorded run began on."""
    try:
        return DataRecord.read(path).processes
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is damaged, so the run cannot be resumed; choose another training.output, or overwrite it "
            "(--overwrite, overwrite=True)"
        ) from error


def _differences(recorded: dict[str, Any], given: dict[str, Any]) -> list[str]:
    before, now = flat(recorded), flat(given)
    return [f"{key} {before.get(key, 'absent')!r} and {now.get(key, 'absent')!r}" for key in differing(recorded, given)]
