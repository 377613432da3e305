"""What is analysed: the trained ΔW in runs, comparisons, adapters and models, each with its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from multilora.base.structure import model_folder
from multilora.errors import InputError, nearest
from multilora.runs.find import Adapter, Comparison, Run, find
from multilora.runs.layout import MIXED

Kind = Literal["multilora", "lora", "full"]


@dataclass(frozen=True)
class Source:
    """One trained ΔW.

    Attributes:
        name: unique in an analysis.
        folder: as the user named it, or a cell of it.
        weights: the adapter's folder, or the model's.
        kind: what was trained.
        method: in short: full, lora@24, multilora@3x8; in a comparison as the comparison names it.
        seed: of the training, in a comparison counted from 0; None if unknown.
        regime: `mixed`, or the only task; None if unknown.
        base: the base model as the recipe or the adapter names it, with its revision.
        recipe: the run's resolved recipe.
        comparison: the folder of its comparison.
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
    """Everything that is to be analysed, each with its own name.

    Args:
        folders: each a run folder, a comparison's folder, an adapter of MultiLoRA or of plain LoRA, or the folder of a
            whole model (not a hub id).

    Raises:
        InputError: one of them holds nothing of this kind, or is not finished; or the same one was named twice.
    """
    found: list[Source] = []
    for folder in folders:
        found += _sources_of(Path(folder))
    places = [source.weights.resolve() for source in found]
    if twice := next((source for source, place in zip(found, places, strict=True) if places.count(place) > 1), None):
        raise InputError(f"{str(twice.weights)!r} was named twice; name each run once")
    return _with_unique_names(found)


def _sources_of(folder: Path) -> list[Source]:
    if not folder.is_dir():
        near = nearest(folder.name, (entry.name for entry in folder.parent.iterdir())) if folder.parent.is_dir() else ""
        raise InputError(f"no folder {str(folder)!r}{near}. Name run folders, comparisons, adapters or models")
    found = find(folder)
    if isinstance(found, Comparison):
        return list(_cells(found))
    if isinstance(found, Run):
        found.check_finished()
        return [_of_run(found)]
    if isinstance(found, Adapter):
        return [_of_adapter(found)]
    return [Source(_name(folder), folder, folder, "full", "full")]


def _of_run(run: Run) -> Source:
    recipe = run.recipe
    return Source(
        name=_name(run.path),
        folder=run.path,
        weights=run.weights,
        kind=recipe.method.name,
        method=run.method,
        seed=recipe.training.seed,
        regime=run.regime,
        base=(recipe.model.path, recipe.model.revision),
        recipe=recipe.resolved(),
    )


def _of_adapter(adapter: Adapter) -> Source:
    folder, read = adapter.path, adapter.config()
    base, revision = read.raw.get("base_model_name_or_path"), read.raw.get("revision")
    known = (base, revision if isinstance(revision, str) else None) if isinstance(base, str) and base else None
    n, r = read.config.num_loras, read.config.r
    method = f"lora@{r}" if read.method == "lora" else f"multilora@{n}x{r}"
    return Source(_name(folder), folder, folder, read.method, method, base=known)


def _cells(comparison: Comparison) -> Iterator[Source]:
    """The cells that are trained.

    Raises:
        InputError: no cell is trained.
    """
    count = 0
    for cell in comparison.cells():
        if not cell.run.weights.is_dir():
            continue
        count += 1
        name = f"{cell.method} seed {cell.seed}" + ("" if cell.regime == MIXED else f" {cell.regime}")
        yield replace(
            _of_run(cell.run),
            name=name,
            method=cell.method,
            seed=cell.seed,
            regime=cell.regime,
            comparison=comparison.path,
        )
    if not count:
        raise InputError(
            f"the comparison in {str(comparison.path)!r} has no cell that is trained yet (cells/METHOD/REGIME)"
        )


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
    """The one base model that the sources name; None if no source names one.

    Raises:
        InputError: they name different ones.
    """
    named = {_resolved(*source.base): source for source in sources if source.base is not None}
    if len(named) > 1:
        (one, first), (other, second), *_ = named.items()
        raise InputError(
            f"{first.name!r} and {second.name!r} were trained from different base models ({one[0]!r}, {other[0]!r}); "
            "analyse them apart, or name the one base model (base, --base)"
        )
    return next(iter(named), None)


def _resolved(model: str, revision: str | None) -> tuple[str, str | None]:
    """One name for one folder, relative or absolute."""
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
        InputError: no run has that name.
    """
    if named is not None:
        place = Path(named).resolve()
        chosen = next(
            (s for s in sources if named == s.name or place in (s.folder.resolve(), s.weights.resolve())), None
        )
        if chosen is None:
            names = [source.name for source in sources]
            raise InputError(
                f"reference (--reference): {named!r} is not one of the runs{nearest(named, names)}; they are {names}"
            )
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
