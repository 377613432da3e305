"""The recipe of the run that an adapter's folder belongs to: it knows more of the base model than the adapter does."""

from __future__ import annotations

from pathlib import Path

from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe

_FOLDERS = frozenset({"adapter", "best"})  # of a run folder


def run_recipe(adapter: Path) -> Recipe | None:
    """The recipe of RUN for RUN/adapter and RUN/best; None: the folder is in no run.

    Raises:
        InputError: the run's recipe.yaml is broken.
    """
    place = adapter.resolve()
    file = place.parent / "recipe.yaml"
    return load_recipe(file, keep_unset=True) if place.name in _FOLDERS and file.is_file() else None


def trained_bits(adapter: Path) -> int | None:
    """In how many bits the base model's weights were when the adapter was trained; None: in full, or not known."""
    recipe = run_recipe(adapter)
    quantization = None if recipe is None else recipe.model.quantization
    return None if quantization is None else quantization.bits
