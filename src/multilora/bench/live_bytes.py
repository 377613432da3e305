"""The bytes of all tensors that are alive, followed operation by operation, and their peak by phase."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts whole storages, each once, from when an operation returns one until it is freed.

    What a kernel allocates for itself and frees before it returns is not seen.

    Args:
        existing: tensors that are there from the start.

    Attributes:
        phase: what the program is doing; set by `during`.
        peaks: most bytes alive at once, by phase.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.phase = "blocks"
        self.peaks: Counter[str] = Counter()
        self._alive: dict[int, int] = {}
        self._now = 0
        for tensor in existing:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        self.peaks[self.phase] = max(self.peaks[self.phase], self._now)
        return out

    @contextmanager
    def during(self, phase: str) -> Generator[None]:
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._alive.pop(key)


def phased(function: Callable[..., Any], live: Callable[[], LiveBytes], phase: str) -> Callable[..., Any]:
    """The function, with what it allocates counted as of this phase."""

    def within(*args: Any, **kwargs: Any) -> Any:
        with live().during(phase):
            return function(*args, **kwargs)

    return within
