"""Short names of methods: `full`, `lora@24`, `multilora`, `multilora@3x8:scaling=scalar`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from multilora.errors import InputError, nearest
from multilora.recipe import FullMethod, LoraMethod, MultiLoraMethod

Method = MultiLoraMethod | LoraMethod | FullMethod

_NAME = re.compile(r"(?P<kind>[a-z_]+)(?:@(?P<size>[^:]*))?(?::(?P<options>.*))?")
_SHARED = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class NamedMethod:
    """A method of a comparison.

    Attributes:
        name: its short name, as the user wrote it; unique in a comparison.
        section: the recipe's section for it.
    """

    name: str
    section: Method

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return method_folder(self.name)

    @property
    def total_rank(self) -> int | None:
        """The rank of all its modules together, by which methods compare fairly; None if it has none."""
        if isinstance(self.section, MultiLoraMethod):
            return self.section.num_loras * self.section.r
        return self.section.r if isinstance(self.section, LoraMethod) else None


def method_folder(name: str) -> str:
    """A method's short name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", name)


def short_name(method: Method) -> str:
    """The method's short name without options, as `multilora compare --methods` takes it."""
    if isinstance(method, MultiLoraMethod):
        return f"multilora@{method.num_loras}x{method.r}"
    return f"lora@{method.r}" if isinstance(method, LoraMethod) else "full"


def named_method(name: str, own: Method) -> NamedMethod:
    """The method that a short name means.

    What the own method says about its targets holds for every method that has targets.

    Args:
        name: `full`; `lora@RANK`; `multilora`, the own method; `multilora@NxR`, n modules of rank r. Options
            of the recipe's section may follow: `:key=value,key=value`.
        own: the method of the recipe.

    Raises:
        InputError: there is no such method, or its options are not right.
    """
    match = _NAME.fullmatch(name)
    kind, size, options = match.group("kind", "size", "options") if match else (name, None, None)
    values = _options(name, options or "")
    targets = {key: value for key in _SHARED if (value := getattr(own, key, None)) is not None}
    if kind == "full" and size is None:
        return NamedMethod(name, _validated(name, FullMethod, values))
    if kind == "lora":
        return NamedMethod(
            name, _validated(name, LoraMethod, targets | _without({"r": _rank(name, size)}, values, name))
        )
    if kind == "multilora" and size is None:
        if not isinstance(own, MultiLoraMethod):
            raise InputError(f"methods: {name!r} means the recipe's method, which is {own.name}; {_SIZED}")
        return NamedMethod(name, _validated(name, MultiLoraMethod, own.model_dump(exclude={"name"}) | values))
    if kind == "multilora":
        parts = re.fullmatch(r"(\d+)x(\d+)", size or "")
        if parts is None:
            raise InputError(f"methods: {name!r}: {_SIZED}")
        sized = {"num_loras": int(parts[1]), "r": int(parts[2])}
        return NamedMethod(name, _validated(name, MultiLoraMethod, targets | _without(sized, values, name)))
    known = ("full", "lora@24", "multilora", "multilora@3x8")
    raise InputError(f"methods: unknown method {name!r}{nearest(name, known)}; methods are {', '.join(known)}")


_SIZED = "write multilora@NxR, such as multilora@3x8"


def _rank(name: str, size: str | None) -> int:
    if size is None or not size.isdecimal():
        raise InputError(f"methods: {name!r}: write lora@RANK, such as lora@24")
    return int(size)


def _options(name: str, text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"methods: {name!r}: write options as key=value, such as scaling=scalar; got {part!r}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"methods: {name!r}: the value of {key} is not YAML; got {value!r}") from error
    return values


def _without(taken: Mapping[str, Any], values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options. None of them may repeat what the name already sets."""
    if both := sorted(taken.keys() & values.keys()):
        raise InputError(f"methods: {name!r} says {both[0]} twice; leave it out of the options")
    return {**taken, **values}


def _validated(name: str, section: type[Method], values: Mapping[str, Any]) -> Any:
    kind = {MultiLoraMethod: "multilora", LoraMethod: "lora", FullMethod: "full"}[section]
    try:
        return section.model_validate({"name": kind, **values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        near = nearest(field, section.model_fields) if first["type"] == "extra_forbidden" else ""
        raise InputError(f"methods: {name!r}: {field}: {first['msg']}{near}") from error
