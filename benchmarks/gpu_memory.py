"""Memory of a training step by kind, beside other models on the same device."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.rates import wait
from multilora.bench.kept import live_bytes
from multilora.bench.live_bytes import LiveBytes
from multilora.bench.methods import MeasuredMethod as Subject
from multilora.bench.methods import unique_bytes


@dataclass(frozen=True)
class StepBytes:
    """Of one model, as if it were alone on the device.

    Attributes:
        weights: parameters and buffers, the base's among them.
        optimizer: its state.
        gradients: of what is trained.
        kept: between forward and backward.
        peak: most bytes at once in a step. On a GPU as its allocator counts them, elsewhere as tensors.
        rest: of the peak, what is neither weights nor optimizer: activations, gradients, temporaries.
    """

    weights: int
    optimizer: int
    gradients: int
    kept: int
    peak: int
    rest: int


def step_bytes(subject: Subject, tokens: Tensor) -> StepBytes:
    """Take two steps, and count in the second. Gradients are None before and after.

    Other models may lie on the device: what they hold is not counted, as long as nothing frees it meanwhile.
    """
    subject.model.zero_grad(set_to_none=True)
    take_step(subject, tokens)  # the optimizer's state and the libraries' workspaces are there from now on
    gradients = unique_bytes(p.grad for p in subject.trainable if p.grad is not None)
    state: list[Tensor] = []
    if subject.optimizer is not None:
        of_parameters = subject.optimizer.state.values()
        state = [value for values in of_parameters for value in values.values() if isinstance(value, Tensor)]
    weights, optimizer = unique_bytes(subject.existing), unique_bytes(state)
    subject.model.zero_grad(set_to_none=True)
    gc.collect()
    if tokens.is_cuda:
        wait("cuda")
        idle = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss = subject.loss(tokens)
        kept = torch.cuda.memory_allocated() - idle
        loss.backward()
        if subject.optimizer is not None:
            subject.optimizer.step()
        wait("cuda")
        peak = torch.cuda.max_memory_allocated() - idle + weights + optimizer
        del loss
    else:
        kept = live_bytes(lambda: subject.loss(tokens), [tokens, *subject.existing])
        with LiveBytes([*subject.existing, *state]) as live:
            take_step(subject, tokens)
        peak = max(live.peaks.values())
    subject.model.zero_grad(set_to_none=True)
    return StepBytes(weights, optimizer, gradients, kept, peak, peak - weights - optimizer)


def take_step(subject: Subject, tokens: Tensor) -> None:
    """Forward, backward and optimizer. Gradients are None before, and stay."""
    subject.loss(tokens).backward()
    if subject.optimizer is not None:
        subject.optimizer.step()
