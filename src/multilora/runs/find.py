"""What is analysed: run folders, comparison folders, adapters and models, told apart, named and described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from multilora.adapter.config import CONFIG_FILE, read_adapter_config
from multilora.base.structure import model_folder
from multilora.errors import InputError, nearest
from multilora.recipe import FullMethod, LoraMethod, MultiLoraMethod, Recipe
from multilora.recipe.file import load_recipe

RECIPE, COMPARISON = "recipe.yaml", "comparison.json"
MIXED = "mixed"
_CELLS = "cells"

Kind = Literal["multilora", "lora", "full"]


@dataclass(frozen=True)
class Source:
    """One trained ΔW.

    Attributes:
        name: unique in an analysis.
        folder: as the user named it, or a cell of it.
        weights: the adapter's folder, or the model's.
        kind: what was trained.
        method: in short: full, lora@24, multilora@3x8; in a comparison as it is called there.
        seed: of the training, in a comparison counted from 0; None: nobody knows.
        regime: `mixed`, or the only task; None: nobody knows.
        base: the base model as the recipe or the adapter tells it, with its revision.
        recipe: what the run's recipe.yaml says, resolved.
        comparison: the comparison's folder that it belongs to.
    """

    name: str
    folder: Path
    weights: Path
    kind: Kind
    method: str
    seed: int | None = None
    regime: str | None = None
    base: tuple[str, str | None] | None = None
    recipe: Mapping[str, Any] | None = None
    comparison: Path | None = None


def find_sources(folders: Sequence[str]) -> list[Source]:
    """Everything that is to be analysed, each with a name of its own.

    Args:
        folders: each a run folder (recipe.yaml), a comparison's folder (comparison.json), an adapter of MultiLoRA or
            of plain LoRA (adapter_config.json), or a whole model (config.json; a hub id is none).

    Raises:
        InputError: one of them is none of these, or is not finished; or the same one was named twice.
    """
    found: list[Source] = []
    for folder in folders:
        found += _sources_of(Path(folder))
    places = [source.weights.resolve() for source in found]
    if twice := next((source for source, place in zip(found, places, strict=True) if places.count(place) > 1), None):
        raise InputError(f"{str(twice.weights)!r} was named twice; name each run once")
    return _with_unique_names(found)


def short_method(section: MultiLoraMethod | LoraMethod | FullMethod) -> str:
    """The method as `multilora compare --methods` takes it, without options."""
    if isinstance(section, MultiLoraMethod):
        return f"multilora@{section.num_loras}x{section.r}"
    return f"lora@{section.r}" if isinstance(section, LoraMethod) else "full"


def _sources_of(folder: Path) -> list[Source]:
    if (folder / COMPARISON).is_file():
        return list(_cells(folder))
    if (folder / RECIPE).is_file():
        recipe = load_recipe(folder / RECIPE, keep_unset=True)
        run = _run(folder, recipe, _name(folder))
        if run is None:
            raise InputError(
                f"the run in {str(folder)!r} is not finished: it has no {_weights_name(recipe)}/. Go on with it "
                "(multilora train --resume), or name one of its checkpoints"
            )
        return [run]
    if (folder / CONFIG_FILE).is_file():
        return [_adapter(folder)]
    if (folder / "config.json").is_file():
        return [Source(_name(folder), folder, folder, "full", "full")]
    if not folder.is_dir():
        near = nearest(folder.name, (entry.name for entry in folder.parent.iterdir())) if folder.parent.is_dir() else ""
        raise InputError(f"no folder {str(folder)!r}{near}. Name run folders, comparisons, adapters or models")
    raise InputError(
        f"{str(folder)!r} holds no run ({RECIPE}), no comparison ({COMPARISON}), no adapter ({CONFIG_FILE}) and no "
        "model (config.json)"
    )


def _run(folder: Path, recipe: Recipe, name: str) -> Source | None:
    """None: it has no weights yet."""
    weights = folder / _weights_name(recipe)
    if not weights.is_dir():
        return None
    regime = MIXED if len(recipe.tasks) > 1 else next(iter(recipe.tasks))
    return Source(
        name=name,
        folder=folder,
        weights=weights,
        kind=recipe.method.name,
        method=short_method(recipe.method),
        seed=recipe.training.seed,
        regime=regime,
        base=(recipe.model.path, recipe.model.revision),
        recipe=recipe.resolved(),
    )


def _adapter(folder: Path) -> Source:
    adapter = read_adapter_config(folder / CONFIG_FILE)
    config = adapter.config
    base, revision = adapter.raw.get("base_model_name_or_path"), adapter.raw.get("revision")
    known = (base, revision if isinstance(revision, str) else None) if isinstance(base, str) and base else None
    method = f"lora@{config.r}" if adapter.method == "lora" else f"multilora@{config.num_loras}x{config.r}"
    return Source(_name(folder), folder, folder, adapter.method, method, base=known)


def _cells(comparison: Path) -> Iterator[Source]:
    """The cells with weights; trials of learning rates are none of them.

    Raises:
        InputError: there is none.
    """
    methods = _method_names(comparison)
    count = 0
    for folder in sorted((comparison / _CELLS).glob("*/*/seed-*"), key=_by_seed_last):
        seed = re.fullmatch(r"seed-(\d+)", folder.name)
        if seed is None or not (folder / RECIPE).is_file():
            continue
        run = _run(folder, load_recipe(folder / RECIPE, keep_unset=True), "")
        if run is None:
            continue
        count += 1
        place, regime = folder.parent.parent.name, folder.parent.name
        method = methods.get(place, place)
        name = f"{method} seed {seed[1]}" + ("" if regime == MIXED else f" {regime}")
        yield replace(run, name=name, method=method, seed=int(seed[1]), regime=regime, comparison=comparison)
    if not count:
        raise InputError(f"the comparison in {str(comparison)!r} has no cell that is trained yet (cells/METHOD/REGIME)")


def _by_seed_last(folder: Path) -> tuple[str, str, int]:
    number = folder.name.rpartition("-")[2]
    return folder.parent.parent.name, folder.parent.name, int(number) if number.isdecimal() else -1


def _method_names(comparison: Path) -> dict[str, str]:
    """The methods' own names by their folders', as far as the comparison's results tell."""
    try:
        results: Any = json.loads((comparison / "results.json").read_text(encoding="utf-8"))
        names = list(cast(dict[str, Any], results["methods"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # it was interrupted before its end: the folders' names are almost the same
    return {re.sub(r"[^\w.-]+", "-", name): name for name in names}


def _weights_name(recipe: Recipe) -> str:
    return "model" if isinstance(recipe.method, FullMethod) else "adapter"


def _name(folder: Path) -> str:
    return folder.resolve().name


def _with_unique_names(sources: list[Source]) -> list[Source]:
    """Names that occur twice get the parent folder before them, and where that is not enough a number behind."""
    names = [source.name for source in sources]
    longer = [
        f"{(source.comparison or source.folder.resolve().parent).resolve().name}/{name}"
        if names.count(name) > 1
        else name
        for source, name in zip(sources, names, strict=True)
    ]
    return [
        replace(source, name=f"{name} ({longer[:number].count(name) + 1})" if longer.count(name) > 1 else name)
        for number, (source, name) in enumerate(zip(sources, longer, strict=True))
    ]


def base_of(sources: Sequence[Source]) -> tuple[str, str | None] | None:
    """The one base model that the sources tell; None: none of them tells one.

    Raises:
        InputError: they tell different ones.
    """
    told = {_resolved(*source.base): source for source in sources if source.base is not None}
    if len(told) > 1:
        (one, first), (other, second), *_ = told.items()
        raise InputError(
            f"{first.name!r} and {second.name!r} were trained from different base models ({one[0]!r}, {other[0]!r}); "
            "analyse them apart, or name the one base model (--base)"
        )
    return next(iter(told), None)


def _resolved(model: str, revision: str | None) -> tuple[str, str | None]:
    """One name for one folder, however it was written."""
    try:
        folder = model_folder(model)
    except InputError:  # it is gone, which may not matter
        folder = None
    return (model, revision) if folder is None else (str(folder.resolve()), None)


def references(sources: Sequence[Source], named: str | None) -> dict[str, str]:
    """The run that each run's subspaces are compared with, by name.

    The named one for all; else the only full fine-tuning; else, in a comparison, the full fine-tuning of the same
    regime and seed. Full fine-tunings themselves are compared with that of the next seed, which shows how alike two
    trainings of one method are.

    Args:
        sources: all runs.
        named: name or folder of the reference.

    Raises:
        InputError: no run is called so.
    """
    if named is not None:
        place = Path(named).resolve()
        chosen = next(
            (s for s in sources if named == s.name or place in (s.folder.resolve(), s.weights.resolve())), None
        )
        if chosen is None:
            names = [source.name for source in sources]
            raise InputError(f"--reference: {named!r} is none of the runs{nearest(named, names)}; they are {names}")
        return {source.name: chosen.name for source in sources if source != chosen}
    full = [source for source in sources if source.kind == "full"]
    if len(full) == 1:
        return {source.name: full[0].name for source in sources if source != full[0]}
    found: dict[str, str] = {}
    for source in sources:
        same = [f for f in full if (f.comparison, f.regime) == (source.comparison, source.regime) and f.comparison]
        if source.kind == "full" and len(same) > 1:
            found[source.name] = same[(same.index(source) + 1) % len(same)].name
        elif source.kind != "full" and (match := next((f for f in same if f.seed == source.seed), None)):
            found[source.name] = match.name
    return found
