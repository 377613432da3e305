"""What a folder is: a run, a comparison, an adapter or a model. The one place that says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.adapter.config import CONFIG_FILE, AdapterConfig, read_adapter_config
from multilora.base.structure import MODEL_CONFIG, model_folder
from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.recipe.method_names import method_folder, short_name
from multilora.runs.layout import MIXED, RECIPE_FILE, ComparisonLayout, RunLayout


@dataclass(frozen=True)
class Run:
    """A folder of `multilora train`, finished or not.

    Attributes:
        path: the folder.
        recipe: its resolved recipe.
    """

    path: Path
    recipe: Recipe

    @property
    def layout(self) -> RunLayout:
        """Where its files lie."""
        return RunLayout(self.path)

    @property
    def weights(self) -> Path:
        """The folder of the trained adapter or model, which is there once training has ended."""
        return self.layout.weights(self.recipe.method.name)

    @property
    def method(self) -> str:
        """Its short name, such as multilora@3x8."""
        return short_name(self.recipe.method)

    @property
    def regime(self) -> str:
        """`mixed`, or the name of its only task."""
        return MIXED if len(self.recipe.tasks) > 1 else next(iter(self.recipe.tasks))

    def check_finished(self, remedy: str = "") -> None:
        """Its weights are there.

        Args:
            remedy: what else can be done; ends the message.

        Raises:
            InputError: they are not.
        """
        if not self.weights.is_dir():
            raise InputError(
                f"the run in {str(self.path)!r} is not finished: it has no {self.weights.name}/. Resume it (multilora "
                f"train --resume), or name one of its checkpoints{remedy}"
            )


@dataclass(frozen=True)
class Cell:
    """A training of a comparison.

    Attributes:
        run: its run.
        method: the method as the comparison names it; the name of its folder if the comparison has no results yet.
        regime: `mixed`, or the only task.
        seed: counted from 0.
    """

    run: Run
    method: str
    regime: str
    seed: int


@dataclass(frozen=True)
class Comparison:
    """A folder of `multilora compare`.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def layout(self) -> ComparisonLayout:
        """Where its files lie."""
        return ComparisonLayout(self.path)

    def cells(self) -> Iterator[Cell]:
        """The cells that have a recipe, without trials of learning rates.

        Raises:
            InputError: a cell's recipe.yaml is broken.
        """
        names = {method_folder(name): name for name in self._method_names()}
        for folder, method, regime, seed in self.layout.cells():
            if (folder / RECIPE_FILE).is_file():
                yield Cell(_run(folder), names.get(method, method), regime, seed)

    def _method_names(self) -> list[str]:
        """As the results have them; none if the comparison was interrupted before its end."""
        try:
            results: Any = json.loads(self.layout.results.read_text(encoding="utf-8"))
            return list(results["methods"])
        except (OSError, ValueError, KeyError, TypeError):
            return []


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter of any PEFT method.

    Attributes:
        path: the folder.
    """

    path: Path

    def config(self) -> AdapterConfig:
        """What its adapter_config.json says.

        Raises:
            InputError: it is broken, or of a method that is neither MultiLoRA nor plain LoRA.
        """
        return read_adapter_config(self.path / CONFIG_FILE)

    def run(self) -> Run | None:
        """The run that it was trained in; None if it lies in no run folder.

        That is RUN of RUN/adapter, RUN/best, RUN/checkpoints/checkpoint-N, and of what was exported into RUN.

        Raises:
            InputError: the run's recipe.yaml is broken.
        """
        for folder in self.path.resolve().parents[:2]:
            layout = RunLayout(folder)
            if layout.recipe.is_file() and layout.data.is_file():  # both: other programs write recipes too
                return _run(folder)
        return None

    def trained_bits(self) -> int | None:
        """In how many bits the base model's weights were during training; None if in full, or if unknown."""
        try:
            run = self.run()
        except InputError:  # of another version, perhaps: the adapter is of use without its recipe
            return None
        quantization = None if run is None else run.recipe.model.quantization
        return None if quantization is None else quantization.bits


@dataclass(frozen=True)
class Model:
    """A whole model.

    Attributes:
        location: its folder, or its id on the Hugging Face hub.
        path: its folder; None for an id.
    """

    location: str
    path: Path | None


def find(target: str | Path, *, keep_unset: bool = True) -> Run | Comparison | Adapter | Model:
    """What a user means by a folder or a model's id. Reads no weights and makes no network request.

    Args:
        target: a folder, or an id on the Hugging Face hub.
        keep_unset: keep `${NAME}` in a run's recipe as text if the variable is not set: for callers that read none of
            the recipe's files.

    Raises:
        InputError: there is no such folder, it holds none of these, or a run's recipe.yaml is broken.
    """
    folder = Path(target)
    if ComparisonLayout(folder).record.is_file():
        return Comparison(folder)
    if RunLayout(folder).recipe.is_file():
        return _run(folder, keep_unset)
    if (folder / CONFIG_FILE).is_file():
        return Adapter(folder)
    if folder.is_dir() and not (folder / MODEL_CONFIG).is_file():
        raise InputError(
            f"{str(target)!r} holds no run ({RECIPE_FILE}), no comparison ({ComparisonLayout(folder).record.name}), "
            f"no adapter ({CONFIG_FILE}) and no model ({MODEL_CONFIG})"
        )
    return Model(str(target), model_folder(str(target)))


def _run(folder: Path, keep_unset: bool = True) -> Run:
    return Run(folder, load_recipe(RunLayout(folder).recipe, keep_unset=keep_unset, recorded=True))
