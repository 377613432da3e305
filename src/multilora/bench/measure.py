"""What one method costs: bytes by kind, and seconds of a training step beside the others'."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multilora.bench.kept import saved_bytes
from multilora.bench.live_bytes import LiveBytes
from multilora.bench.rounds import Case, Seconds, run_rounds, summary
from multilora.bench.subjects import Subject, unique_bytes


@dataclass(frozen=True)
class Bytes:
    """Memory of a training step, each kind for itself.

    Attributes:
        weights: parameters and buffers, the base's among them.
        activations: what the graph keeps from forward for backward.
        gradients: of what is trained.
        optimizer: its state.
        peak: most bytes alive at once in a step, on a GPU as its allocator counts them, elsewhere as tensors.
    """

    weights: int
    activations: int
    gradients: int
    optimizer: int
    peak: int


def measure_bytes(subject: Subject, tokens: Tensor, base_bytes: int) -> Bytes:
    """Take a few steps and count.

    Args:
        subject: the model; no other one but the base may be on a GPU.
        tokens: (rows, length).
        base_bytes: of the base's weights, which are there whether the subject shares them or not.
    """
    weights = unique_bytes(subject.existing)
    _step(subject, tokens)  # the optimizer's state, and what libraries set up once, are there from now on
    gradients = unique_bytes(p.grad for p in subject.trainable if p.grad is not None)
    state: list[Tensor] = []
    if subject.optimizer is not None:
        of_parameters = subject.optimizer.state.values()
        state = [value for values in of_parameters for value in values.values() if isinstance(value, Tensor)]
    subject.model.zero_grad(set_to_none=True)
    activations = saved_bytes(lambda: subject.loss(tokens), [tokens, *subject.existing])
    if tokens.is_cuda:
        peak = _peak_on_gpu(subject, tokens, base_bytes)
    else:
        with LiveBytes([*subject.existing, *state]) as live:
            _step(subject, tokens)
        peak = max(live.peaks.values())
    subject.model.zero_grad(set_to_none=True)
    return Bytes(weights, activations, gradients, unique_bytes(state), peak)


def measure_seconds(subjects: Sequence[Subject], tokens: Tensor, repeats: int, minutes: float) -> Seconds:
    """Seconds of forward, backward and optimizer, by the subject's name, one per round."""
    cases = [
        Case(
            subject.name,
            subject.name,
            lambda subject=subject: subject.loss(tokens),
            lambda loss: loss.backward(),
            lambda subject=subject: subject.model.zero_grad(set_to_none=True),
            subject.optimizer,
        )
        for subject in subjects
    ]
    return run_rounds(cases, repeats, minutes)


def speeds(seconds: Seconds, name: str, tokens: int, reference: str | None) -> dict[str, Any]:
    """Tokens per second forward and in a whole step (medians), and how many times the reference's the step's is.

    Args:
        seconds: of all methods.
        name: whose.
        tokens: of a batch.
        reference: a method; None: there is none.
    """
    found: dict[str, Any] = {
        "forward": tokens / summary(seconds[name]["forward"])["median"],
        "step": tokens / summary(_whole(seconds[name]))["median"],
        "rounds": len(seconds[name]["forward"]),
        "over_reference": None,
    }
    if reference is not None:
        pairs = zip(_whole(seconds[reference]), _whole(seconds[name]), strict=True)
        found["over_reference"] = summary([theirs / ours for theirs, ours in pairs])
    return found


def _whole(parts: Mapping[str, Sequence[float]]) -> list[float]:
    kinds = [values for values in parts.values() if values]
    return [sum(of_round) for of_round in zip(*kinds, strict=True)]


def _step(subject: Subject, tokens: Tensor) -> None:
    subject.model.zero_grad(set_to_none=True)
    subject.loss(tokens).backward()
    if subject.optimizer is not None:
        subject.optimizer.step()


def _peak_on_gpu(subject: Subject, tokens: Tensor, base_bytes: int) -> int:
    subject.model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _step(subject, tokens)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return peak - base_bytes if subject.full else peak  # it has weights of its own, and the base's lie beside them
