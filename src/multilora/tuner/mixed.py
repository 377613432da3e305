"""Mixed batches: one adapter name per row, at inference, as PEFT's LoRA has them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from multilora.errors import InputError, nearest
from multilora.tuner.layer import MultiLoraLayer


@contextmanager
def adapter_names_passed(model: nn.Module, adapter_names: Sequence[str] | None, num_beams: int) -> Generator[None]:
    """Inside, every adapted layer of a model is called with `adapter_names`; None: nothing is changed.

    Args:
        model: with adapted layers.
        adapter_names: one name per row, of an adapter or "__base__".
        num_beams: how often beam search repeats a row.

    Raises:
        InputError: the model is in training mode, or has no adapter of a name.
    """
    if adapter_names is None:
        yield
        return
    if model.training:
        raise InputError("adapter_names is for inference; call model.eval() first, or leave it out")
    layers = [module for module in model.modules() if isinstance(module, MultiLoraLayer)]
    known = {name for layer in layers for name in layer.multilora_A} | {"__base__"}
    unknown = sorted(set(adapter_names) - known)
    if unknown:
        raise InputError(
            f"adapter_names: no such adapter(s): {', '.join(unknown)}{nearest(unknown[0], known)}; "
            f"the model has {', '.join(sorted(known))}"
        )
    hook = partial(_pass_adapter_names, adapter_names=list(adapter_names), num_beams=num_beams)
    handles = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, (MultiLoraLayer, AuxiliaryTrainingWrapper))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str], num_beams: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Beam search repeats each row `num_beams` times, except in an encoder; the batch's length shows which."""
    rows = len(args[0]) if args else len(next(iter(kwargs.values())))
    repeated = [name for name in adapter_names for _ in range(num_beams)]
    return args, kwargs | {"adapter_names": repeated if rows == len(repeated) else adapter_names}
