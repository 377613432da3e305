"""Reading a recipe: YAML to `Recipe`, with all faults in one message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from multilora.errors import InputError, nearest
from multilora.fields import KEEP_UNSET
from multilora.recipe import (
    ComparisonSection,
    FullMethod,
    HardwareSection,
    LoraMethod,
    MixtureSection,
    ModelSection,
    MultiLoraMethod,
    QuantizationSection,
    Recipe,
    TrainingSection,
    ValidationSection,
)
from multilora.recipe.comparison import ComparedMethod
from multilora.recipe.tasks import section_of
from multilora.tasks.registry import BUILT_IN

_METHODS: dict[str, type[BaseModel]] = {"multilora": MultiLoraMethod, "lora": LoraMethod, "full": FullMethod}


def load_recipe(path: Path, overrides: Sequence[str] = (), *, keep_unset: bool = False) -> Recipe:
    """Read and validate a recipe.

    A recipe may extend another one: `extends: FILE`, a path relative to its own folder. Sections are merged, what the
    recipe says wins, `method` is taken as a whole, and a task or a compared method that is null is left out.

    Args:
        path: a YAML file. Relative paths in it are relative to the current directory.
        overrides: `key=value` each, such as `training.steps=10`; the value is read as YAML.
        keep_unset: leave `${NAME}` in paths as it is where the variable is not set, for who does not read the files.

    Raises:
        InputError: one message with every fault: unknown keys with the nearest known one, wrong values, and so on.
    """
    data = _read(path)
    faults = [fault for text in overrides if (fault := _override(data, text))]
    _leave_out_nulls(data, "tasks")
    if isinstance(comparison := data.get("comparison"), dict):
        _leave_out_nulls(cast(dict[str, Any], comparison), "methods")
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data, context={KEEP_UNSET: keep_unset})
    except ValidationError as error:
        faults += _faults(error, data)
    if recipe is None or faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError("\n".join([f"{path}: {count}", *(f"  {fault}" for fault in faults)]))
    return recipe


def _leave_out_nulls(section: dict[str, Any], key: str) -> None:
    if isinstance(named := section.get(key), dict):
        section[key] = {name: value for name, value in cast(dict[str, Any], named).items() if value is not None}


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
        raise InputError(f"{path}: extends: must be the path of another recipe; got {_short(name)}")
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
    """Set one value in place; the fault, if there is one. Keys that nothing knows are found by validation."""
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


# Faults -----------------------------------------------------------------------------------------------------------


def _faults(error: ValidationError, data: dict[str, Any]) -> list[str]:
    """One line per field. A union (list or text) gives one error per branch; they become one line."""
    by_field: dict[tuple[str | int, ...], list[str]] = {}
    for detail in error.errors(include_url=False):
        field = _field_path(detail["loc"], detail["type"], data)
        message = _message(dict(detail), field, data)
        messages = by_field.setdefault(field, [])
        if message not in messages:
            messages.append(message)
    return [": ".join(filter(None, (_dotted(field), _joined(texts)))) for field, texts in by_field.items()]


def _dotted(field: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field).removeprefix(".")


def _joined(messages: list[str]) -> str:
    if len(messages) == 1:
        return messages[0]
    parts = [message.removeprefix("must be ").partition("; got ") for message in messages]
    got = max((part[2] for part in parts), key=len)  # the longest also names what is nearest
    return f"must be {' or '.join(part[0] for part in parts)}; got {got}"


def _field_path(loc: tuple[str | int, ...], kind: str, data: Any) -> tuple[str | int, ...]:
    """`loc` without what pydantic adds to it: names of union branches, indexes into lists made from one value."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            path.append(part)
            data = cast(Any, data)[part]
        elif number == len(loc) - 1 and kind == "missing":
            path.append(part)
    return tuple(path)


def _message(detail: dict[str, Any], field: tuple[str | int, ...], data: dict[str, Any]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(field[:-1], data)
        return "unknown key" + (nearest(str(field[-1]), known) or f"; known: {', '.join(known)}")
    if kind == "missing":
        section = _section(field[:-1], data)
        about = section.model_fields[str(field[-1])].description if section else None
        return f"missing. {about.split('. ')[0].rstrip('.')}" if about else "missing"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        if field[0] == "tasks":
            return _unknown_task(cast(dict[str, Any], value)["task"])
        name = cast(dict[str, Any], value).get("name") if isinstance(value, dict) else value
        near = nearest(name, _METHODS) if isinstance(name, str) else ""
        return f"name must be one of {', '.join(_METHODS)}; got {name!r}{near}"
    if kind == "literal_error":
        expected = context["expected"]
        choices = re.findall(r"'([^']*)'", expected) or re.split(r", | or ", expected)  # numbers have no quotes
        return f"must be one of {', '.join(choices)}; got {value!r}{nearest(str(value), choices)}"
    text = detail["msg"].replace("Input should be", "must be").partition(", unable to")[0]
    return f"{text[0].lower()}{text[1:]}; got {_short(value)}"


def _unknown_task(name: Any) -> str:
    known = ("jsonl", "chat", *BUILT_IN)
    near = nearest(name, known) if isinstance(name, str) else ""
    return f"task must be one of {', '.join(known)}; got {_short(name)}{near}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _section(field: tuple[str | int, ...], data: Mapping[str, Any]) -> type[BaseModel] | None:
    match field:
        case ():
            return Recipe
        case ("model",):
            return ModelSection
        case ("model", "quantization"):
            return QuantizationSection
        case ("method",):
            return _METHODS.get(data["method"].get("name"))
        case ("tasks", name):
            return section_of(data["tasks"][name].get("task", "jsonl"))
        case ("mixture",):
            return MixtureSection
        case ("training",):
            return TrainingSection
        case ("validation",):
            return ValidationSection
        case ("comparison",):
            return ComparisonSection
        case ("comparison", "methods", _):
            return ComparedMethod
        case ("hardware",):
            return HardwareSection
        case _:
            return None


def _known_keys(field: tuple[str | int, ...], data: Mapping[str, Any]) -> list[str]:
    section = _section(field, data)
    return list(section.model_fields) if section else []
