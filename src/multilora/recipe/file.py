"""Reading a recipe: YAML to `Recipe`, with all faults in one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from multilora.errors import InputError, nearest
from multilora.fields import KEEP_UNSET
from multilora.recipe import Recipe
from multilora.recipe.faults import faults_of, short
from multilora.recipe.method import as_recorded
from multilora.recipe.places import named_sections


def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, keep_unset: bool = False, recorded: bool = False
) -> Recipe:
    """Read and validate a recipe.

    A recipe may extend another one: `extends: FILE`, a path relative to its own folder. Sections are merged, what the
    recipe says wins, `method` is taken as a whole, and a task or a compared method that is null is left out.

    Args:
        path: a YAML file. Relative paths in it are relative to the current directory.
        overrides: `key=value` each, such as `training.steps=10`; the value is read as YAML.
        keep_unset: leave `${NAME}` in paths as it is where the variable is not set, for who does not read the files.
        recorded: it is a run's record, perhaps of an older version, and not a recipe that somebody wrote.

    Raises:
        InputError: one message with every fault: unknown keys with the nearest known one, wrong values, and so on.
    """
    data = as_recorded(_read(path)) if recorded else _read(path)
    faults = [fault for text in overrides if (fault := _override(data, text))]
    for place in named_sections(Recipe):
        _leave_out_nulls(data, place)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data, context={KEEP_UNSET: keep_unset})
    except ValidationError as error:
        faults += faults_of(error, data)
    if recipe is None or faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError("\n".join([f"{path}: {count}", *(f"  {fault}" for fault in faults)]))
    return recipe


def _leave_out_nulls(section: dict[str, Any], place: Sequence[str]) -> None:
    key, *deeper = place
    if not isinstance(inner := section.get(key), dict):
        return
    named = cast(dict[str, Any], inner)
    if deeper:
        _leave_out_nulls(named, deeper)
    else:
        section[key] = {name: value for name, value in named.items() if value is not None}


# YAML -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which YAML libraries silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key: Any = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise InputError(f"line {line}: the key {key!r} is not text; put it in quotes")
            if key in lines:
                raise InputError(f"line {line}: the key {key!r} stands in line {lines[key]} already; remove one")
            lines[key] = line
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        names = (other.name for other in path.parent.iterdir()) if path.parent.is_dir() else ()
        raise InputError(
            f"cannot read the recipe {str(path)!r}: {error.strerror}{nearest(path.name, names)}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start + 1}); a recipe is a YAML file") from error
    try:
        data: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except InputError as error:
        raise InputError(f"{path}, {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_yaml_fault(error)}") from error
    if not isinstance(data, dict):
        keys = ", ".join(Recipe.model_fields)
        raise InputError(f"{path}: a recipe is a YAML mapping with the keys {keys}; this file is not")
    return cast(dict[str, Any], data)


def _read(path: Path, extending: Sequence[Path] = ()) -> dict[str, Any]:
    """The recipe's data, on top of that of the recipe it extends."""
    data = _read_yaml(path)
    if isinstance(data.get("model"), str):
        data["model"] = {"path": data["model"]}
    if "extends" not in data:
        return data
    name: Any = data.pop("extends")
    if not isinstance(name, str):
        raise InputError(f"{path}: extends: must be the path of another recipe; got {short(name)}")
    other = (path.parent / name).resolve()
    chain = (*extending, path.resolve())
    if other in chain:
        raise InputError(f"{path}: extends: {name} extends this recipe in turn; break the circle")
    return _merged(_read(other, chain), data)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(below.get(key), dict) and isinstance(value, dict)
        merged[key] = _merged(below[key], cast(dict[str, Any], value)) if both and key != "method" else value
    return merged


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f": not YAML: {problem}" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}: {problem}"


# Overrides --------------------------------------------------------------------------------------------------------


def _override(data: dict[str, Any], text: str) -> str | None:
    """Set one value in place; the fault, if there is one. Validation finds unknown keys."""
    key, equals, value_text = text.partition("=")
    if not equals or not all(key.split(".")):
        return f"--set {text}: write key=value, such as training.steps=10"
    try:
        value: Any = yaml.safe_load(value_text)
    except yaml.YAMLError as error:
        return f"--set {text}: the value is not YAML{_yaml_fault(error)}"
    if key == "model" and isinstance(value, str):
        value = {"path": value}
    *parents, last = key.split(".")
    node = data
    for number, parent in enumerate(parents):
        inner = node.setdefault(parent, {})
        if not isinstance(inner, dict):
            return f"--set {text}: {'.'.join(parents[: number + 1])} is not a section; it has the value {inner!r}"
        node = cast(dict[str, Any], inner)
    node[last] = value
    return None
