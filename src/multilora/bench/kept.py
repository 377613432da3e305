"""Bytes kept between forward and backward, counted in two ways that share no code and no assumption.

Both count whole storages (a view keeps all of its storage alive), each once, and leave out those that exist anyway:
parameters, buffers, the batch, and the result that the caller holds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(forward: Callable[[], Tensor], existing: Iterable[Tensor]) -> int:
    """Bytes that the graph reports as kept: the storages that pass through autograd's saved-tensor hooks.

    Args:
        forward: runs a forward pass with gradients and returns its result.
        existing: tensors that exist anyway (parameters, buffers, the batch).
    """
    saved: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    for tensor in (*existing, result):
        saved.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in saved.values())


def live_bytes(forward: Callable[[], Tensor], existing: Iterable[Tensor]) -> int:
    """Bytes that are alive after the forward pass: the storages that any of its operations returned.

    Whatever keeps them: the graph, a custom function's `ctx`, a module's attribute, a global. Arguments as above.
    """
    gc.collect()
    with _EveryStorage() as made:
        result = forward()
    gc.collect()  # garbage in reference cycles is not kept for backward
    # Taken now: an operation that returns a view of a parameter has put its storage into `made` too.
    known = {tensor.untyped_storage()._cdata for tensor in (*existing, result)}
    return sum(size for key, (ref, size) in made.seen.items() if key not in known and not ref.expired())


class _EveryStorage(TorchDispatchMode):
    """Notes the storage of every tensor that an operation returns, below autograd, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        # A weak reference keeps the storage's address taken, so that no address stands for two storages.
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out
