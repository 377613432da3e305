"""Adapters in the formats of other tools: one module per format, and nothing else in this folder.

A format is a module with a `FORMAT` of the module's name. The first line of the module's docstring is its help text in
the console script, which reads it without importing this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from multilora.adapter.exporting import Format

FORMATS: Mapping[str, Format] = MappingProxyType(
    {module.name: import_module(f"{__name__}.{module.name}").FORMAT for module in iter_modules(__path__)}
)
