"""Where two recipes differ, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values differ, sorted; a key that only one has differs."""
    one, two = flat(first), flat(second)
    absent = object()
    return [key for key in sorted(one.keys() | two.keys()) if one.get(key, absent) != two.get(key, absent)]


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; empty mappings are values."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            found |= flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
