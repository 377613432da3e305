"""Several adapters as one: the weighted sum of their ΔW, and PEFT's other combinations, one layer at a time.

Each adapter is first folded into its one pair (A, B'), which has the same ΔW without scale and constant. What is made
of the pairs is what PEFT makes of plain LoRA's (`peft.tuners.lora.LoraModel.add_weighted_adapter`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, task_arithmetic, ties
from torch import Tensor

from multilora.errors import InputError, nearest
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.factors import Factors
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.svd import truncated

# (tensors, weights, density, majority_sign_method) to their combination, by the first part of its name.
_OF_TENSORS: Mapping[str, Callable[[list[Tensor], Tensor, Any, Any], Tensor]] = MappingProxyType(
    {
        "linear": lambda tensors, weights, _density, _sign: task_arithmetic(tensors, weights),
        "ties": ties,
        "dare_linear": lambda tensors, weights, density, _sign: dare_linear(tensors, weights, density),
        "dare_ties": dare_ties,
        "magnitude_prune": lambda tensors, weights, density, _sign: magnitude_prune(tensors, weights, density),
    }
)
COMBINATIONS = (
    "cat",
    "svd",
    "linear",
    *(f"{name}{end}" for name in _OF_TENSORS if name != "linear" for end in ("", "_svd")),
)


@dataclass(frozen=True)
class Combination:
    """How adapters become one.

    Attributes:
        kind: one of `COMBINATIONS`. "cat" concatenates along the rank and is exact; "svd" is the best approximation of
            the exact sum of a given rank; the others are applied to A and to B' each, or, with "_svd", to ΔW, which is
            then truncated.
        rank: of what is truncated; None: the largest total rank of the adapters.
        density: share of numbers that pruning keeps, in (0, 1].
        majority_sign_method: "total" or "frequency", for the kinds with "ties".

    Raises:
        InputError: a value is out of range.
    """

    kind: str
    rank: int | None = None
    density: float | None = None
    majority_sign_method: str = "total"

    def __post_init__(self) -> None:
        if self.kind not in COMBINATIONS:
            raise InputError(
                f"combination_type must be one of {', '.join(map(repr, COMBINATIONS))}; got {self.kind!r}"
                f"{nearest(str(self.kind), COMBINATIONS)}"
            )
        if self.rank is not None and (isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"svd_rank must be an integer of at least 1, or None; got {self.rank!r}")
        prunes = self.kind not in ("cat", "svd", "linear")
        if prunes and not (isinstance(self.density, (int, float)) and 0 < self.density <= 1):
            raise InputError(
                f"density must be in (0, 1], the share of numbers that {self.kind!r} keeps; got {self.density!r}"
            )
        if self.majority_sign_method not in ("total", "frequency"):
            raise InputError(f"majority_sign_method must be 'total' or 'frequency'; got {self.majority_sign_method!r}")


@torch.no_grad()
def combine(adapters: Sequence[Factors], weights: Sequence[float], how: Combination) -> Factors:
    """The combination of one layer's adapters as one pair without scale.

    Args:
        adapters: those that the layer has; for kinds that work on A and B', of one total rank.
        weights: of each; negative ones subtract.
        how: the kind and its options.

    Returns:
        Folded factors, in fp32 (fp64 of fp64 factors) where nothing was truncated.
    """
    pairs = [each.folded() for each in adapters]
    if how.kind == "cat":
        return _sum(pairs, weights)
    rank = how.rank or max(pair.total_rank for pair in pairs)
    if how.kind == "svd":
        return truncated(_sum(pairs, weights), rank)[0]
    name = how.kind.removesuffix("_svd")

    def of_tensors(tensors: list[Tensor], factors: Sequence[float]) -> Tensor:
        weights = torch.tensor(factors, dtype=tensors[0].dtype, device=tensors[0].device)
        return _OF_TENSORS[name](tensors, weights, how.density, how.majority_sign_method)

    if name != how.kind:
        U, S, Vh = torch.linalg.svd(of_tensors([pair.delta() for pair in pairs], weights), full_matrices=False)
        root = S[:rank].sqrt()
        return Factors(root.unsqueeze(1) * Vh[:rank], U[:, :rank] * root)
    # As in PEFT: the root of the weight on both sides, its sign on one.
    roots = [math.sqrt(abs(weight)) for weight in weights]
    lora_A = of_tensors(
        [pair.lora_A for pair in pairs], [math.copysign(*each) for each in zip(roots, weights, strict=True)]
    )
    return Factors(lora_A, of_tensors([pair.lora_B for pair in pairs], roots))


def _sum(pairs: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """w_1 ΔW_1 + w_2 ΔW_2 + …, exactly: the pairs side by side."""
    lora_B = torch.cat([pair.lora_B * weight for pair, weight in zip(pairs, weights, strict=True)], dim=1)
    return Factors(torch.cat([pair.lora_A for pair in pairs]), lora_B)


def combine_layers(
    layers: Mapping[str, MultiLoraLayer], adapters: Sequence[str], weights: Sequence[float], how: Combination
) -> dict[str, Factors]:
    """The combination of adapters on every layer that has one of them.

    Args:
        layers: name to layer.
        adapters: names of adapters.
        weights: of each.
        how: the kind and its options.

    Raises:
        InputError: the kind works on A and B', and the adapters' total ranks on a layer differ.
    """
    weight_of = dict(zip(adapters, weights, strict=True))
    largest = max(
        layer.factors(name).total_rank for layer in layers.values() for name in adapters if layer.has_adapter(name)
    )
    if how.rank is None:  # one for all layers
        how = Combination(how.kind, largest, how.density, how.majority_sign_method)
    found: dict[str, Factors] = {}
    for layer_name, layer in layers.items():
        here = [name for name in adapters if layer.has_adapter(name)]
        if not here:
            continue
        factors = [layer.factors(name) for name in here]
        ranks = [each.total_rank for each in factors]
        if len(set(ranks)) > 1 and how.kind in _OF_TENSORS:
            listed = ", ".join(f"{name!r} {rank}" for name, rank in zip(here, ranks, strict=True))
            raise InputError(
                f"combination_type={how.kind!r} adds A to A and B to B, which needs one total rank num_loras * r; on "
                f"{layer_name!r} the adapters have {listed}. Use 'cat' (exact), 'svd'"
                + ("" if how.kind == "linear" else f", or {how.kind + '_svd'!r}")
            )
        found[layer_name] = combine(factors, [weight_of[name] for name in here], how)
    return found


def check_weights(adapters: Sequence[str], weights: Sequence[float], known: Sequence[str]) -> None:
    """One finite weight for each adapter, each known and named once; InputError otherwise."""
    if not adapters:
        raise InputError(f"adapters must name at least one of {', '.join(map(repr, known))}; got an empty list")
    for name in adapters:
        if name not in known:
            raise InputError(
                f"adapters: no such adapter {name!r}{nearest(name, known)}; the model has {', '.join(map(repr, known))}"
            )
    if twice := [name for name, count in Counter(adapters).items() if count > 1]:
        raise InputError(f"adapters: {twice[0]!r} is named twice; name it once, with the sum of its weights")
    if len(weights) != len(adapters):
        raise InputError(f"weights must have one number per adapter; got {len(weights)} for {len(adapters)} adapters")
    for name, weight in zip(adapters, weights, strict=True):
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"weights: that of {name!r} must be a finite number; got {weight!r}")


def add_combination(
    tuner: BaseTuner, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, how: Combination
) -> None:
    """Add the combination of adapters to a model as an adapter, inactive and without gradient.

    It has scaling="none" and num_loras=1, as a plain LoRA has: every learned scale and constant is folded in.

    Raises:
        InputError: a name or weight is wrong; an adapter holds more than pairs; the kind does not fit the ranks.
            Nothing was added.
    """
    configs = cast(Mapping[str, MultiLoraConfig], tuner.peft_config)
    if adapter_name in configs:
        raise InputError(
            f"adapter_name={adapter_name!r}: the model has an adapter of that name; delete_adapter({adapter_name!r}) "
            "first, or choose another name"
        )
    check_weights(adapters, weights, list(configs))
    for name in adapters:
        for field in ("modules_to_save", "trainable_token_indices"):
            if value := getattr(configs[name], field):
                raise InputError(f"adapters: {name!r} has {field}={value!r}, which is no ΔW and cannot be summed")
        if configs[name].bias != "none":
            raise InputError(
                f"adapters: {name!r} has bias={configs[name].bias!r}: biases cannot be told apart by adapter"
            )
    layers = {name: layer for name, layer in tuner.model.named_modules() if isinstance(layer, MultiLoraLayer)}
    combined = combine_layers(layers, adapters, weights, how)
    ranks = {name: each.total_rank for name, each in combined.items()}
    r = Counter(ranks.values()).most_common(1)[0][0]
    first = configs[adapters[0]]
    tuner.peft_config[adapter_name] = MultiLoraConfig(
        task_type=first.task_type,
        base_model_name_or_path=first.base_model_name_or_path,
        revision=first.revision,
        auto_mapping=first.auto_mapping,
        r=r,
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != r},
        num_loras=1,
        scaling="none",
        lora_dropout=first.lora_dropout,
        target_modules=sorted(ranks),
        exact_unmerge=first.exact_unmerge,
    )
    try:
        tuner.inject_adapter(tuner.model, adapter_name)
    except InputError:  # the name
        del tuner.peft_config[adapter_name]
        raise
    tuner._cast_adapter_dtype(adapter_name)
    with torch.no_grad():
        for name, pair in combined.items():
            target = layers[name].factors(adapter_name)
            target.lora_A.copy_(pair.lora_A)
            target.lora_B.copy_(pair.lora_B)
