"""What adapters change in a base model, by tensor: pairs to add, whole tensors to take, and ties to cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from multilora.adapter.file import PREFIX, AdapterFile
from multilora.base.structure import model_structure
from multilora.base.weights import ModelWeights, check_same_matrices, find_name, is_in_block
from multilora.errors import InputError, nearest
from multilora.storage.safetensors import DTYPE_CODES, StoredTensor, read_header
from multilora.tuner.factors import Factors

_WEIGHT = ".weight"


@dataclass(frozen=True)
class Addend:
    """w · ΔW of one adapter's layer.

    Attributes:
        adapter: where the pair is.
        layer: the layer's name in the adapter.
        weight: the factor w.
    """

    adapter: AdapterFile
    layer: str
    weight: float


@dataclass
class Changes:
    """By the name of the tensor in the result.

    Attributes:
        addends: what is added to a weight.
        replaced: what stands in a tensor's place (modules_to_save, trained biases).
        more: tensors that the base model lacks because they were tied: the stored tensor that each starts from.
        untied: weights that were tied differ now.
    """

    addends: dict[str, list[Addend]] = field(default_factory=dict[str, list[Addend]])
    replaced: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    more: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    untied: bool = False


def summed_factors(addends: Sequence[Addend], dtype: torch.dtype) -> Factors:
    """Folded factors with ΔW = Σ w_k ΔW_k: the adapters' pairs side by side, (Σ n·r, d_in), (d_out, Σ n·r).

    Args:
        addends: one or more.
        dtype: at least that of each adapter, and fp32.

    Raises:
        InputError: numbers that are not finite.
    """
    folded = [addend.adapter.folded(addend.layer).to(dtype) for addend in addends]
    if len(folded) == 1 and addends[0].weight == 1.0:
        return folded[0]
    scaled_Bs = [factors.lora_B * addend.weight for factors, addend in zip(folded, addends, strict=True)]
    return Factors(torch.cat([factors.lora_A for factors in folded]), torch.cat(scaled_Bs, dim=1))


def find_changes(
    base: ModelWeights,
    tensors: Mapping[str, StoredTensor],
    adapters: Sequence[tuple[AdapterFile, float]],
    *,
    untie: bool,
) -> Changes:
    """What the adapters change.

    Args:
        base: the base model.
        tensors: all its tensors by name.
        adapters: with their weights.
        untie: as `MergeOptions.untie`.

    Raises:
        InputError: an adapter does not fit the base model, or has what cannot be merged; ties would be cut and `untie`
            is off.
    """
    changes = Changes()
    taken = [(adapter, weight, _whole_tensors(adapter)) for adapter, weight in adapters]
    touched = {f"{layer}{_WEIGHT}" for adapter, _ in adapters for layer in adapter.layers}
    touched |= {name for _, _, whole in taken for name in whole}
    ties = _ties(base) if any(not is_in_block(name) for name in touched) else {}
    for target, source in ties.items():
        _resolve_tie(changes, base, tensors, taken, touched, (target, source), untie)
    for adapter, weight, whole in taken:
        _add_pairs(changes, base, adapter, weight)
        _replace(changes, tensors, adapter, weight, whole)
    return changes


def _add_pairs(changes: Changes, base: ModelWeights, adapter: AdapterFile, weight: float) -> None:
    what = f"the adapter {str(adapter.folder)!r}"
    shapes = {name: (layer.d_out, layer.d_in) for name, layer in adapter.layers.items()}
    tied = {layer for layer in shapes if f"{layer}{_WEIGHT}" in changes.more}
    for layer in tied:
        if shapes[layer] != (stored := changes.more[f"{layer}{_WEIGHT}"].shape):
            raise InputError(
                f"{what} and the base model {str(base.folder)!r} do not belong together: {layer} is "
                f"{' x '.join(map(str, shapes[layer]))}, in the base model {' x '.join(map(str, stored))}"
            )
    names = check_same_matrices(what, {name: shape for name, shape in shapes.items() if name not in tied}, base)
    for layer in shapes:
        tensor = f"{layer if layer in tied else names[layer]}{_WEIGHT}"
        changes.addends.setdefault(tensor, []).append(Addend(adapter, layer, weight))


def _whole_tensors(adapter: AdapterFile) -> dict[str, StoredTensor]:
    """By their names in the base model: the tensors of the adapter that are no pairs."""
    if not adapter.other_tensors:
        return {}
    stored = read_header(adapter.file)[0]
    found: dict[str, StoredTensor] = {}
    for key in adapter.other_tensors:
        if ".token_adapter." in key:
            raise InputError(
                f"{adapter.folder}: trainable_token_indices: embeddings of single tokens were trained, which a merge "
                "by files does not know; merge the adapter with PEFT's merge_and_unload"
            )
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        found[name] = stored[key]
    return found


def _replace(
    changes: Changes,
    tensors: Mapping[str, StoredTensor],
    adapter: AdapterFile,
    weight: float,
    whole: Mapping[str, StoredTensor],
) -> None:
    if whole and weight != 1.0:
        raise InputError(
            f"{adapter.folder}: has whole tensors ({_names_of(whole)}: modules_to_save or biases), which take the "
            f"place of the base model's and cannot be weighted with {weight:g}; give this adapter the weight 1"
        )
    known = {**tensors, **changes.more}
    for name, stored in whole.items():
        place = find_name(name, known)
        if place is None:
            raise InputError(
                f"{adapter.folder}: has the tensor {name!r}, and the base model has none of that "
                f"name{nearest(name, known)}; name the base model that the adapter was trained from"
            )
        if known[place].shape != stored.shape or not {known[place].code, stored.code} <= set(DTYPE_CODES.values()):
            raise InputError(
                f"{adapter.folder}: {name!r} is {stored.code} {list(stored.shape)}, in the base model "
                f"{known[place].code} {list(known[place].shape)}; name the base model that the adapter was trained "
                "from, with as many tokens"
            )
        if place in changes.replaced:
            raise InputError(
                f"{changes.replaced[place].file.parent} and {adapter.folder} both have a whole {name!r} "
                "(modules_to_save or biases), and only one can take the base model's place; merge one of them"
            )
        changes.replaced[place] = stored


# Tied weights -----------------------------------------------------------------------------------------------------


def _ties(base: ModelWeights) -> Mapping[str, str]:
    """Target to source of the weights that transformers ties when it loads the model."""
    structure: Any = model_structure(str(base.folder))
    return cast(Mapping[str, str], getattr(structure, "all_tied_weights_keys", None) or {})


def _resolve_tie(
    changes: Changes,
    base: ModelWeights,
    tensors: Mapping[str, StoredTensor],
    adapters: Sequence[tuple[AdapterFile, float, dict[str, StoredTensor]]],
    touched: set[str],
    tie: tuple[str, str],
    untie: bool,
) -> None:
    """Where an adapter changes one of two tied weights, the other is written beside it; or that is refused."""
    if not touched & set(tie):
        return
    target, source = tie
    places = {name: find_name(name, tensors) for name in tie}
    if all(_keeps_tie(adapter, whole, tie) for adapter, _, whole in adapters):
        for _, _, whole in adapters:  # both are the same tensor: one of them is enough, where the base model has it
            if target in whole and source in whole and None in places.values():
                del whole[target if places[target] is None else source]
        return
    if not untie:
        one = ", ".join(sorted(touched & set(tie)))
        raise InputError(
            f"the base model {str(base.folder)!r} ties {target!r} to {source!r} (tie_word_embeddings): they are one "
            f"tensor, and adapters change {one}. Untie them (--untie, untie=True), which writes both, or leave the "
            "output layer out of the adapter's target_modules"
        )
    changes.untied = True
    there = next((place for place in places.values() if place is not None), None)
    if there is not None:
        changes.more |= {name: tensors[there] for name, place in places.items() if place is None}


def _keeps_tie(adapter: AdapterFile, whole: Mapping[str, StoredTensor], tie: tuple[str, str]) -> bool:
    """PEFT trained the two as one, or the adapter has neither."""
    pairs = {f"{layer}{_WEIGHT}" for layer in adapter.layers} & set(tie)
    if not pairs and not set(whole) & set(tie):
        return True
    return bool(adapter.adapter_config.raw.get("ensure_weight_tying")) and not pairs


def _names_of(names: Mapping[str, Any]) -> str:
    first = next(iter(names))
    return f"{first}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
