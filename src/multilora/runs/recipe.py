"""The recipe of the run that an adapter lies in: it knows more of the base model than the adapter does."""

from __future__ import annotations

from pathlib import Path

from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe


def run_recipe(adapter: Path) -> Recipe | None:
    """The recipe of the run folder that an adapter's folder, or its parent, lies in; None: there is no such run.

    That is RUN/adapter, RUN/best, RUN/checkpoints/checkpoint-N, and what was exported into RUN.

    Raises:
        InputError: the run's recipe.yaml is broken.
    """
    for folder in adapter.resolve().parents[:2]:
        if (folder / "recipe.yaml").is_file() and (folder / "data.json").is_file():  # both: others write recipes too
            return load_recipe(folder / "recipe.yaml", keep_unset=True)
    return None


def trained_bits(adapter: Path) -> int | None:
    """In how many bits the base model's weights were when the adapter was trained; None: in full, or not known."""
    try:
        recipe = run_recipe(adapter)
    except InputError:  # of another version, perhaps: the adapter is of use without its recipe
        return None
    quantization = None if recipe is None else recipe.model.quantization
    return None if quantization is None else quantization.bits
