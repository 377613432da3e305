"""Each task's training loss between two log lines: a sum over tokens, so it is right however they are batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOSS, _TOKENS = "loss/", "tokens/"  # trackers show what has the same beginning side by side


class TaskLosses:
    """Sums and counts by task, in float64.

    Args:
        names: the tasks, in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._clear()

    def add(self, log_probs: Tensor, learnt: Tensor, task_ids: Tensor) -> None:
        """Add a batch.

        Args:
            log_probs: (rows, length − 1) log-probabilities of all tokens but the rows' first.
            learnt: (rows, length − 1) bool: the tokens that the loss has.
            task_ids: (rows, length) numbers of the tokens' tasks.
        """
        losses = -log_probs.detach()[learnt].float().cpu().numpy().astype(np.float64)
        tasks = task_ids[:, 1:].to(learnt.device)[learnt].cpu().numpy()
        self._sums += np.bincount(tasks, losses, len(self._names))
        self._counts += np.bincount(tasks, minlength=len(self._names))

    def tokens(self, task_ids: Tensor) -> NDArray[np.int64]:
        """(tasks,) How many tokens of a batch, prompts too, each task has."""
        return np.bincount(task_ids[task_ids >= 0].cpu().numpy(), minlength=len(self._names))

    def taken(self) -> dict[str, float]:
        """`loss/NAME` (nats per token) and `tokens/NAME` (how many) of the tasks seen since the last call."""
        logs: dict[str, float] = {}
        for name, total, count in zip(self._names, self._sums.tolist(), self._counts.tolist(), strict=True):
            if count:
                logs |= {_LOSS + name: total / count, _TOKENS + name: count}
        self._clear()
        return logs

    def reduce(self, accelerator: Any) -> None:
        """Make each process's sums those of all processes together."""
        if accelerator.num_processes == 1:
            return
        both = torch.tensor(np.stack([self._sums, self._counts]), dtype=torch.float64, device="cpu")
        both = accelerator.reduce(both.to(accelerator.device), reduction="sum").cpu().numpy()
        self._sums, self._counts = both[0], both[1].astype(np.int64)

    def _clear(self) -> None:
        self._sums = np.zeros(len(self._names))
        self._counts = np.zeros(len(self._names), dtype=np.int64)


def by_task(logs: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What `TaskLosses.taken` put into `logs`, as `{"gsm8k": {"loss": …, "tokens": …}, …}`."""
    return {
        key.removeprefix(_LOSS): {"loss": logs[key], "tokens": logs[_TOKENS + key.removeprefix(_LOSS)]}
        for key in logs
        if key.startswith(_LOSS)
    }
