"""The task sections of a recipe: each is validated by the section of the task that it names (`tasks.registry`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from multilora.errors import InputError, nearest
from multilora.tasks.registry import section_of, sections, task_names
from multilora.tasks.section import TaskSection

# Versions before 0.2 wrote these options of mmlu, unset, into the section of every data set that they had. Resolved
# recipes still have them there, so that the hash of a recipe stays what it was.
_ONCE_SHARED: Mapping[str, Any] = MappingProxyType({"auxiliary": None, "shots": 0})
_ONCE_SHARED_BY = ("alpaca", "boolq", "cb", "copa", "gsm8k", "mmlu", "multirc", "record", "rte", "wic", "wsc")


def section_class(section: Any) -> type[TaskSection] | None:
    """The section class of a task by its `task`, which is jsonl if left out; None if there is no such task.

    Raises:
        InputError: as `tasks.registry.section_of`.
    """
    name = cast(dict[str, Any], section).get("task", "jsonl") if isinstance(section, dict) else "jsonl"
    return section_of(name) if isinstance(name, str) else None


def as_written(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a resolved recipe, as plain data."""
    return section | {k: v for k, v in _ONCE_SHARED.items() if section["task"] in _ONCE_SHARED_BY and k not in section}


def _validated(value: Any, info: ValidationInfo) -> TaskSection:
    if isinstance(value, TaskSection):
        return value
    if not isinstance(value, dict):
        raise InputError(f"must be a valid dictionary or instance of TaskSection; got {value!r}")
    section = cast(dict[str, Any], value)
    chosen = section_class(section)
    if chosen is None:
        raise InputError(_unknown_task(section["task"]))
    if section.get("task") in _ONCE_SHARED_BY:
        own = chosen.model_fields
        section = {
            key: option
            for key, option in section.items()
            if key in own or key not in _ONCE_SHARED or option != _ONCE_SHARED[key]
        }
    return chosen.model_validate(section, context=info.context)


def _unknown_task(name: Any) -> str:
    known = task_names()
    near = nearest(name, known) if isinstance(name, str) else ""
    text = repr(name)
    return f"task must be one of {', '.join(known)}; got {text if len(text) <= 80 else text[:77] + '…'}{near}"


class _OfTheRegistry:
    """The union of all tasks' sections, looked up at validation: tasks that were registered later are in it too."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = dict.fromkeys(sections().values())  # a section may have several names
        return {"oneOf": handler(core_schema.union_schema([_with_name(section) for section in found]))["anyOf"]}


def _with_name(section: type[TaskSection]) -> CoreSchema:
    """The section's schema with a reference, so that it stands once, by its name, among the definitions."""
    name = f"{section.__module__}.{section.__qualname__}:{id(section)}"
    return cast(CoreSchema, {**section.__pydantic_core_schema__, "ref": name})


AnyTaskSection = Annotated[TaskSection, _OfTheRegistry()]
