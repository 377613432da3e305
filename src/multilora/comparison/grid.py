"""The cells of a comparison: one training each, with its recipe and its folder. No file is touched here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.comparison.record import ComparisonRecord
from multilora.errors import InputError
from multilora.recipe import FullMethod, MultiLoraMethod, Recipe
from multilora.recipe.comparison import ComparedMethod, ComparisonSection
from multilora.recipe.method import without_plain_scale
from multilora.recipe.method_names import NamedMethod, named_method
from multilora.runs.layout import MIXED, ComparisonLayout


@dataclass(frozen=True)
class Cell:
    """One training of a comparison.

    Attributes:
        regime: `mixed`, or the name of the only task.
        method: what is trained.
        seed: of the training.
        learning_rate: of the training.
        recipe: the whole recipe; its output is the cell's folder.
        trial: it only tries a learning rate, and is validated instead of tested.
    """

    regime: str
    method: NamedMethod
    seed: int
    learning_rate: float
    recipe: Recipe
    trial: bool = False

    @property
    def folder(self) -> Path:
        """The cell's run folder."""
        return self.recipe.training.output

    @property
    def title(self) -> str:
        """The cell in a few words."""
        what = f"learning rate {self.learning_rate:g}" if self.trial else f"seed {self.seed}"
        return f"{self.method.name}, {what}" + ("" if self.regime == MIXED else f", {self.regime} alone")


class Grid:
    """All cells of a comparison.

    Args:
        recipe: the recipe; its method is what `multilora` means and whose targets the others have too.
        section: methods, seeds, regimes, learning rates.
        out: the comparison's folder.

    Raises:
        InputError: a name is not a known method, a method was named twice, or nothing is left to compare.
    """

    def __init__(self, recipe: Recipe, section: ComparisonSection, out: Path) -> None:
        if not section.methods:
            raise InputError(
                "comparison.methods: none given; name some, in the recipe or by --methods full,lora@24,multilora"
            )
        self.recipe, self.section, self.out = recipe, section, out
        self.methods = [named_method(name, recipe.method) for name in section.methods]
        full = [method.name for method in self.methods if isinstance(method.section, FullMethod)]
        if full and recipe.model.quantization is not None:
            raise InputError(
                f"comparison.methods: {full[0]!r} trains every weight, and weights in "
                f"{recipe.model.quantization.bits} bits cannot be trained; drop it, or leave model.quantization out"
            )
        folders = [method.folder for method in self.methods]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            raise InputError(f"comparison.methods: two methods would share the folder {twice[0]!r}; drop one")
        rates = {method.name: len(self._rates(method)) for method in self.swept}
        if len(set(rates.values())) > 1:
            counts = ", ".join(f"{name}: {count}" for name, count in rates.items())
            raise InputError(
                f"comparison.learning_rates: a fair sweep tries as many for every method; got {counts}; make them equal"
            )
        if rates and recipe.validation is None:
            raise InputError(
                "comparison.learning_rates: the best is chosen on validation rows, and the recipe has no validation "
                "section; add one, such as validation: {scores: true}"
            )

    @property
    def swept(self) -> list[NamedMethod]:
        """The methods whose learning rate is to be found."""
        return [m for m in self.methods if self._of(m).learning_rate is None and self._rates(m)]

    def trials(self) -> list[Cell]:
        """The cells that try learning rates: in the mixed regime, with the first seed."""
        return [self._cell(MIXED, method, 0, rate, trial=True) for method in self.swept for rate in self._rates(method)]

    def finals(self, chosen: Mapping[str, float], steps: Mapping[str, int]) -> list[Cell]:
        """The cells that count, seed after seed, so that what there is of an interrupted comparison is balanced.

        Args:
            chosen: the learning rates that the trials found, by the method's name.
            steps: of a training on one task alone, by the task's name, for the regime `single`.
        """
        regimes = [MIXED] if "mixed" in self.section.regimes else []
        regimes += list(self.recipe.tasks) if "single" in self.section.regimes else []
        return [
            self._cell(regime, method, seed, self._rate(method, chosen), steps=steps.get(regime))
            for seed in range(self.section.seeds)
            for regime in regimes
            for method in self.methods
        ]

    def record(self) -> ComparisonRecord:
        """What all cells share; methods and seeds may grow."""
        data = self.recipe.determining()
        data["training"] = {k: v for k, v in data["training"].items() if k not in ("learning_rate", "seed")}
        return ComparisonRecord(recipe=data, limit=self.section.limit, max_new_tokens=self.section.max_new_tokens)

    def hash(self) -> str:
        """Short hash of `record`, whose format number does not count."""
        shared = self.record().shared
        shared |= {"recipe": without_plain_scale(shared["recipe"])}
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]

    def equal_rank_lora(self, method: NamedMethod) -> NamedMethod | None:
        """The plain LoRA of the method's total rank, which is the fair one to compare it with."""
        return next(
            (m for m in self.methods if m.section.name == "lora" and m.total_rank == method.total_rank != None),  # noqa: E711
            None,
        )

    def _rate(self, method: NamedMethod, chosen: Mapping[str, float]) -> float:
        fixed = self._of(method).learning_rate
        return fixed if fixed is not None else chosen.get(method.name, self.recipe.training.learning_rate)

    def _rates(self, method: NamedMethod) -> list[float]:
        """Those that the method's sweep tries; none: it has no sweep."""
        return self._of(method).learning_rates or self.section.learning_rates

    def _of(self, method: NamedMethod) -> ComparedMethod:
        return self.section.methods[method.name]

    def _cell(
        self, regime: str, method: NamedMethod, seed: int, rate: float, trial: bool = False, steps: int | None = None
    ) -> Cell:
        layout = ComparisonLayout(self.out)
        place = layout.trial(method.folder, rate) if trial else layout.cell(method.folder, regime, seed)
        data = self.recipe.resolved()
        data["method"] = method.section.model_dump(mode="json")
        data.pop("comparison", None)
        training: dict[str, Any] = data["training"]
        training |= {
            "output": str(place),
            "learning_rate": rate,
            "seed": self.recipe.training.seed + seed,
            "scaling_lr_ratio": self._scaling_lr_ratio(method),
        }
        if regime != MIXED:
            data["tasks"] = {regime: data["tasks"][regime]}
            training |= {"steps": steps, "epochs": None}
        if trial:
            data["validation"] |= {"every": None, "best_by": None, "scores": self.section.select_by == "score"}
        return Cell(regime, method, seed, rate, Recipe.model_validate(data), trial)

    def _scaling_lr_ratio(self, method: NamedMethod) -> float:
        scaled = isinstance(method.section, MultiLoraMethod) and method.section.scaling != "none"
        if not scaled:
            return 1.0
        own = self._of(method).scaling_lr_ratio
        return self.recipe.training.scaling_lr_ratio if own is None else own


def best_trial(cells: Sequence[Cell], values: Sequence[float | None], select_by: str) -> Cell | None:
    """The trial with the best value: the highest score or the lowest loss; of equal ones the lower learning rate.

    None: no trial has a value.
    """
    sign = 1 if select_by == "loss" else -1
    found = [
        (sign * value, cell.learning_rate, number)
        for number, (cell, value) in enumerate(zip(cells, values, strict=True))
        if value is not None and math.isfinite(value)
    ]
    return cells[min(found)[2]] if found else None


def single_steps(steps: int, rates: Sequence[float], mean_tokens: Sequence[float], packed: bool) -> list[int]:
    """For each task the steps in which a training on it alone sees as many of its examples as the mixed one does.

    Args:
        steps: of the mixed training.
        rates: sampling rate of each task, per example.
        mean_tokens: mean length of each task's examples.
        packed: a batch is then as many tokens, not as many examples.
    """
    amounts = [rate * (tokens if packed else 1) for rate, tokens in zip(rates, mean_tokens, strict=True)]
    return [max(1, round(steps * amount / sum(amounts))) for amount in amounts]
