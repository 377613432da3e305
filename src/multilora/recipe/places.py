"""Which section stands at a place of a recipe, such as `comparison.methods.lora`: read off the pydantic models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from multilora.errors import InputError
from multilora.recipe.tasks import section_class
from multilora.tasks.section import TaskSection


def section_at(model: type[BaseModel], place: Sequence[str | int], data: Any) -> type[BaseModel] | None:
    """The class of the section at a place.

    Args:
        model: the class of the outermost section.
        place: keys from there on.
        data: the recipe's data, which say which method and task is meant.

    Returns:
        The class; None if no section stands there, or the data do not say which.
    """
    found: type[BaseModel] | None = model
    keys = list(place)
    while keys and found is not None:
        field = found.model_fields.get(str(keys[0]))
        if field is None:
            return None
        named = get_origin(field.annotation) is dict
        for key in keys[: 1 + named]:
            data = cast(dict[Any, Any], data).get(key) if isinstance(data, dict) else None
        if named and len(keys) == 1:
            return None
        del keys[: 1 + named]
        found = _chosen(field, data)
    return found


def alternatives(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The values of the key by which the section of a field is chosen, such as the methods' names; [] if none does."""
    field = model.model_fields.get(str(place[0])) if len(place) == 1 else None
    return list(_by_tag(field)) if field else []


def named_sections(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """The places of sections by names of the user's own, such as ("tasks",) and ("comparison", "methods")."""
    for name, field in model.model_fields.items():
        sections = _sections_in(field.annotation)
        if get_origin(field.annotation) is dict:
            if sections:
                yield (name,)
        elif len(sections) == 1:
            for place in named_sections(sections[0]):
                yield (name, *place)


def _chosen(field: FieldInfo, data: Any) -> type[BaseModel] | None:
    """The section class that matches the data, among those that the field may hold."""
    sections = _sections_in(field.annotation)
    if sections == [TaskSection]:
        try:
            return section_class(data)
        except InputError:  # of a broken package; validation reports it
            return None
    if len(sections) > 1:
        tag = cast(dict[str, Any], data).get(str(field.discriminator)) if isinstance(data, dict) else None
        return _by_tag(field).get(tag) if isinstance(tag, str) else None
    return sections[0] if sections else None


def _by_tag(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    return {
        tag: section
        for section in _sections_in(field.annotation)
        if (key := section.model_fields.get(str(field.discriminator)))
        for tag in get_args(key.annotation)
    }


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation names, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
