"""What an injection refuses, and what it says: names that match nothing, tied weights, what is left out."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from multilora.errors import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.targets import grouped, is_trained_in_full, nearest_layers


class NoMatchingModuleError(InputError, NoMatchingPeftModuleError):
    """`target_modules` match no layer that can be adapted; an `InputError` that PEFT's handlers recognise too."""


def refuse_unmatched(wanted: Collection[str], model: nn.Module, names: Sequence[str]) -> None:
    """Names of a list that match nothing: an error if none matches anything, else a warning."""
    present = [name for name, _ in model.named_modules()]
    unmatched = sorted(w for w in wanted if not any(n == w or n.endswith(f".{w}") for n in present))
    if not unmatched:
        return
    message = (
        f"target_modules {unmatched} match no module{nearest_layers(unmatched, names)}. "
        "`multilora targets MODEL` lists all"
    )
    if len(unmatched) == len(wanted):
        raise NoMatchingModuleError(message)
    warnings.warn(message, stacklevel=4)


def warn_of_heads(wanted: Collection[str], model: nn.Module, config: MultiLoraConfig) -> None:
    """Names of a list that mean only modules which are trained in full."""
    full = [name for name, _ in model.named_modules() if is_trained_in_full(config, name)]
    matched = [name for name, _ in model.named_modules() if name not in set(full)]
    heads = sorted(
        w
        for w in wanted
        if any(n == w or n.endswith(f".{w}") for n in full) and not any(n == w or n.endswith(f".{w}") for n in matched)
    )
    if heads:
        task = f", by its task_type {str(config.task_type)!r}" if config.task_type else ""
        warnings.warn(
            f"target_modules {heads} are trained in full and get no adapter (modules_to_save{task}); leave them out of "
            "target_modules",
            stacklevel=4,
        )


def skipped_layers(skipped: dict[str, str]) -> str:
    """One line for all layers that "all-linear" cannot adapt, by kind, with the reason for each kind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    kinds = [
        f"{', '.join(f'{where} ({len(names)})' for where, names in grouped(left_out).items())}: {reason}"
        for reason, left_out in by_reason.items()
    ]
    more = f"; and {len(kinds) - 8} more reasons" if len(kinds) > 8 else ""
    return (
        f"target_modules='all-linear' leaves out {len(skipped)} layers that cannot be adapted: {'; '.join(kinds[:8])}"
        f"{more}. Name them in exclude_modules, and nothing is said"
    )


def refuse_tied(model: nn.Module, adapter_name: str) -> None:
    """An adapted layer that shares its weight with an embedding: merging, and a saved model, would change both."""
    embeddings = {id(module.weight): name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if isinstance(module, MultiLoraLayer) and module.has_adapter(adapter_name):
            tied = embeddings.get(id(module.get_base_layer()._parameters.get("weight")))
            if tied:
                raise InputError(
                    f"target module {name!r} shares its weight with the embeddings {tied!r}, which ΔW must not change. "
                    f"Leave it out of target_modules, or untie it first: model.{name}.weight = torch.nn.Parameter("
                    f"model.{name}.weight.detach().clone()); model.config.tie_word_embeddings = False"
                )


def warn_of_full_rank(model: nn.Module, adapter_name: str) -> None:
    """Once for all layers on which the pair's rank n·r is above what ΔW can have."""
    found = [
        (name, layer.num_loras[adapter_name] * layer.r[adapter_name], min(layer.in_features, layer.out_features))
        for name, layer in model.named_modules()
        if isinstance(layer, MultiLoraLayer) and adapter_name in layer.r
    ]
    above = [(name, rank, limit) for name, rank, limit in found if rank > limit]
    if above:
        name, rank, limit = above[0]
        more = f" (and so on {len(above) - 1} more layers)" if len(above) > 1 else ""
        warnings.warn(
            f"{name}: num_loras * r = {rank} is above min(d_in, d_out) = {limit}{more}: ΔW has full rank there and "
            "the adapter costs more than W itself; a smaller r, or rank_pattern, would do",
            stacklevel=3,
        )


def keep_off_fast_paths(model: nn.Module, parent: nn.TransformerEncoderLayer, layer: nn.Module) -> None:
    """In eval() torch's encoder reads the weights of its layers in one fused call, unless one of them has a hook.

    Its stack gives them nested tensors then, which nothing but that call takes; so that is switched off as well.
    """
    layer.register_forward_pre_hook(_no_fast_path)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(each is parent for each in module.layers):
            module.use_nested_tensor = False


def _no_fast_path(layer: nn.Module, args: Any) -> None:
    """A hook that does nothing: that there is one is its use."""
