"""The tasks by name: the built-in ones, those of installed packages, and those registered by a program.

A package adds a task by an entry point of the group `multilora.tasks`: the task's name = the class of its section.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

from multilora.errors import InputError
from multilora.tasks import data_sets
from multilora.tasks.chat import ChatSection
from multilora.tasks.jsonl import JsonlSection
from multilora.tasks.section import TaskSection, names_of

GROUP = "multilora.tasks"


def register_task(name: str, section: type[TaskSection]) -> None:
    """Make a task known to the recipes that this process reads.

    Args:
        name: the task's name, which a recipe gives as `task`.
        section: its options; its field `task` is a `Literal` with the name.

    Raises:
        InputError: the class is no section of a task of this name, or another task has the name.
    """
    _check(name, section, f"register_task: {name!r}: ")
    other = (_known()).get(name)
    if other is not None and _path(other) != _path(section):  # a notebook's cell may run twice
        raise InputError(f"register_task: the task {name!r} exists already: {_path(other)}; choose another name")
    if (entry := _entries().get(name)) is not None and entry.value != _path(section):
        raise InputError(f"register_task: the task {name!r} exists already, in {_package(entry)}; choose another name")
    _registered()[name] = section


def section_of(name: str) -> type[TaskSection] | None:
    """The section of the task of this name; None if there is no such task.

    Installed packages are searched, and the one with the task is loaded, if it is neither built in nor registered.

    Raises:
        InputError: a package's task cannot be loaded, or two tasks have one name.
    """
    known = _known()
    if name in known:
        return known[name]
    entry = _entries().get(name)
    return None if entry is None else _loaded(entry)


def sections() -> dict[str, type[TaskSection]]:
    """The sections of all tasks by name: built in, registered, and of installed packages, which are loaded.

    Raises:
        InputError: as `section_of`.
    """
    known = _known()
    return known | {name: _loaded(entry) for name, entry in _entries().items() if name not in known}


def task_names() -> list[str]:
    """The names of all tasks, in the order of `sections`. No package is loaded.

    Raises:
        InputError: two tasks have one name.
    """
    return list(dict.fromkeys([*built_in(), *_registered(), *_entries()]))


def tasks_with(option: str) -> list[str]:
    """The tasks, of those that are loaded, whose section has this option."""
    return [name for name, section in (_known()).items() if option in section.model_fields]


@cache
def built_in() -> Mapping[str, type[TaskSection]]:
    """The sections of this package's tasks: those that read the user's rows, then the data sets in their order."""
    found: dict[str, type[TaskSection]] = {"jsonl": JsonlSection, "chat": ChatSection}
    for name in sorted(module.name for module in iter_modules(data_sets.__path__)):
        module = import_module(f"{data_sets.__name__}.{name}")
        for section in vars(module).values():
            if isinstance(section, type) and issubclass(section, TaskSection) and section.__module__ == module.__name__:
                found |= dict.fromkeys(names_of(section), section)
    return MappingProxyType(found)


def _known() -> dict[str, type[TaskSection]]:
    return {**built_in(), **_registered()}


@cache
def _registered() -> dict[str, type[TaskSection]]:
    """The sections passed to `register_task` in this process."""
    return {}


def _entries() -> dict[str, EntryPoint]:
    """The tasks of installed packages. None of them is loaded."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in built_in():
            raise InputError(
                f"{_package(entry)} has a task {entry.name!r}, which is the name of a built-in one; rename it, or "
                "uninstall the package"
            )
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise InputError(
                f"{_package(other)} and {_package(entry)} both have a task {entry.name!r}; uninstall one of them"
            )
    return found


def _loaded(entry: EntryPoint) -> type[TaskSection]:
    what = f"the task {entry.name!r} of {_package(entry)} cannot be loaded from {entry.value!r}: "
    try:
        section: Any = entry.load()
    except Exception as error:  # whatever the package's own code raises
        raise InputError(f"{what}{type(error).__name__}: {error}. Mend the package, or uninstall it") from error
    _check(entry.name, section, what)
    return section


def _check(name: str, section: Any, what: str) -> None:
    if not isinstance(section, type) or not issubclass(section, TaskSection):
        raise InputError(f"{what}{section!r} is not a subclass of multilora.tasks.section.TaskSection")
    if name not in names_of(section):
        raise InputError(f'{what}{_path(section)} needs the field `task: Literal["{name}"]`')
    if abstract := sorted(getattr(section, "__abstractmethods__", ())):
        raise InputError(f"{what}{_path(section)} has no {', '.join(abstract)}")


def _path(section: type[TaskSection]) -> str:
    return f"{section.__module__}:{section.__qualname__}"


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else "a package"
