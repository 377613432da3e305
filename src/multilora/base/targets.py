"""`multilora targets`: the linear layers of a model, as `target_modules` can name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from peft.tuners.tuners_utils import _get_in_out_features

from multilora.base.structure import model_structure, output_layer_name
from multilora.tuner.targets import linear_layer_names


@dataclass(frozen=True)
class TargetGroup:
    """Linear layers of one ending, one shape and one place in the blocks.

    Attributes:
        ending: the last part of their names, as in `target_modules`.
        d_in, d_out: features.
        where: their name with "*" for numbers.
        names: full names.
        output_layer: it is the model's output layer, which "all-linear" leaves out.
    """

    ending: str
    d_in: int
    d_out: int
    where: str
    names: tuple[str, ...]
    output_layer: bool


def list_targets(model: str) -> list[TargetGroup]:
    """The linear layers of a model in the order of its modules. Its weights are not loaded.

    Args:
        model: a folder or an id on the Hugging Face hub.

    Raises:
        InputError: there is no such model.
    """
    structure = model_structure(model)
    output = output_layer_name(structure)
    groups: dict[tuple[str, int, int, bool], list[str]] = {}
    for name in linear_layer_names(structure):
        d_in, d_out = cast(tuple[int, int], _get_in_out_features(structure.get_submodule(name)))
        where = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
        groups.setdefault((where, d_in, d_out, name == output), []).append(name)
    return [
        TargetGroup(where.rpartition(".")[2], d_in, d_out, where, tuple(names), is_output)
        for (where, d_in, d_out, is_output), names in groups.items()
    ]
