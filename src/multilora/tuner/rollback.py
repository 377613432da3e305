"""A model that is changed as a whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

_Contents = list[tuple[Any, Any]]


@contextmanager
def unchanged_on_error(model: nn.Module, config: Any) -> Generator[None]:
    """If the block raises, `model` is what it was: its modules, their attributes, and what requires gradients.

    Tensors are not copied; the block may replace parameters, and may not write into them.

    Args:
        config: a dataclass whose fields are put back as well.
    """
    attributes = [(module, dict(module.__dict__)) for module in model.modules()]
    containers: _Contents = [
        (value, value.copy())
        for _, values in attributes
        for value in values.values()
        if isinstance(value, (dict, list, set))
    ]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    try:
        yield
    except BaseException:
        for module, values in attributes:
            module.__dict__.clear()
            module.__dict__.update(values)
        for container, contents in containers:
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
        for name, value in fields.items():
            setattr(config, name, value)
        raise
