"""`multilora targets`: the layers of a model that can be adapted, as `target_modules` can name them, and the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn

from multilora.base.structure import model_structure, output_layer_name
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.coverage import Unreached, unreached_parameters
from multilora.tuner.targets import expand_all_linear, grouped, linear_layer_names


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


@dataclass(frozen=True)
class LeftOut:
    """Linear layers of one place in the blocks that cannot be adapted.

    Attributes:
        where: their name with "*" for numbers.
        names: full names.
        reason: why, as a part of a sentence.
    """

    where: str
    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Targets:
    """A model's parts, as an adapter reaches them.

    Attributes:
        groups: linear layers that can be adapted, in the order of the model's modules.
        left_out: linear layers that "all-linear" leaves out.
        unreached: parameters that hold matrices and are no layer's, such as the fused experts of a mixture.
    """

    groups: tuple[TargetGroup, ...]
    left_out: tuple[LeftOut, ...]
    unreached: tuple[Unreached, ...]


def list_targets(model: str) -> Targets:
    """What of a model can be adapted. Its weights are not loaded.

    Args:
        model: a folder or an id on the Hugging Face hub.

    Raises:
        InputError: there is no such model.
    """
    structure = model_structure(model)
    faults = expand_all_linear(MultiLoraConfig(), structure)
    left_out = tuple(LeftOut(where, tuple(names), faults[names[0]]) for where, names in grouped(faults).items())
    return Targets(tuple(_groups(structure, faults)), left_out, tuple(unreached_parameters(structure)))


def _groups(structure: nn.Module, left_out: Collection[str]) -> list[TargetGroup]:
    output = output_layer_name(structure)
    groups: dict[tuple[str, int, int, bool], list[str]] = {}
    for name in linear_layer_names(structure):
        if name in left_out:
            continue
        d_in, d_out = cast(tuple[int, int], _get_in_out_features(structure.get_submodule(name)))
        (where,) = grouped([name])
        groups.setdefault((where, d_in, d_out, name == output), []).append(name)
    return [
        TargetGroup(where.rpartition(".")[2], d_in, d_out, where, tuple(names), is_output)
        for (where, d_in, d_out, is_output), names in groups.items()
    ]
