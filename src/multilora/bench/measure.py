"""Costs of methods: bytes by kind, each method alone, and seconds of a training step, all methods in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from multilora.bench.kept import saved_bytes
from multilora.bench.live_bytes import LiveBytes
from multilora.bench.machine import Load
from multilora.bench.methods import MeasuredMethod, unique_bytes
from multilora.bench.record import KindBytes, Ratios, Speeds
from multilora.bench.rounds import Case, Seconds, run_rounds, summary

T = TypeVar("T")


@dataclass
class Measured(Generic[T]):
    """Measurements of several methods on the same tokens.

    Attributes:
        alone: of each method that fits on the device alone, by name.
        seconds: of each that also fits beside the others, one per round.
        missing: why a method lacks the one or the other.
        load: how busy other processes kept the machine during the rounds.
    """

    alone: dict[str, T] = field(default_factory=dict[str, T])
    seconds: Seconds = field(default_factory=Seconds)
    missing: dict[str, str] = field(default_factory=dict[str, str])
    load: dict[str, Any] = field(default_factory=dict[str, Any])


def measure(
    builders: Mapping[str, Callable[[], MeasuredMethod]],
    alone: Callable[[MeasuredMethod], T],
    tokens: Tensor,
    repeats: int,
    minutes: float,
    note: Callable[[str], None],
) -> Measured[T]:
    """Measure every method alone, then the time of all in turns. A method that runs out of memory is left out.

    Args:
        builders: by name. Models may share their base's weights.
        alone: called with each method while no other one exists.
        tokens: (rows, length), on the device.
        repeats: rounds, at most.
        minutes: for all rounds, at most.
        note: receives lines about what is being done.
    """
    found: Measured[T] = Measured()
    for name, build in builders.items():
        note(f"memory of {name}")
        fits = without_memory_error(lambda build=build: alone(build()))
        if isinstance(fits, OutOfMemory):
            found.missing[name] = fits.reason
        else:
            found.alone[name] = fits
    note(f"time of {len(found.alone)} methods in turns")
    methods: dict[str, MeasuredMethod] = {}
    for name in found.alone:
        built = without_memory_error(builders[name])
        if isinstance(built, OutOfMemory):
            found.missing[name] = f"{built.reason} (beside the other methods)"
        else:
            methods[name] = built

    def reset() -> None:  # all methods': gradients of the others would lie in the way
        for method in methods.values():
            method.model.zero_grad(set_to_none=True)

    with Load() as load:
        while methods:
            try:
                cases = [_case(method, tokens, reset) for method in methods.values()]
                found.seconds = run_rounds(cases, repeats, minutes)
                break
            except _OutOfMemoryError as error:
                lacking = error.name
                found.missing[lacking] = f"{error.reason} (beside the other methods)"
            finally:
                cases = []
            reset()
            del methods[lacking]
            free()
    found.load = load.facts
    methods.clear()
    free()
    return found


def measure_bytes(method: MeasuredMethod, tokens: Tensor, base_bytes: int) -> KindBytes:
    """Take a few training steps and count bytes by kind.

    Args:
        method: no other one may be on a GPU, but for the base.
        tokens: (rows, length).
        base_bytes: of the base's weights, which exist whether the method shares them or not.
    """
    weights = unique_bytes(method.existing)
    method.step(tokens)  # from now on the optimizer's state exists, and what libraries set up once
    gradients = unique_bytes(p.grad for p in method.trainable if p.grad is not None)
    state: list[Tensor] = []
    if method.optimizer is not None:
        of_parameters = method.optimizer.state.values()
        state = [value for values in of_parameters for value in values.values() if isinstance(value, Tensor)]
    method.model.zero_grad(set_to_none=True)
    activations = saved_bytes(lambda: method.loss(tokens), [tokens, *method.existing])
    if tokens.is_cuda:
        peak = _peak_on_gpu(method, tokens, base_bytes)
    else:
        with LiveBytes([*method.existing, *state]) as live:
            method.step(tokens)
        peak = max(live.peaks.values())
    method.model.zero_grad(set_to_none=True)
    optimizer = unique_bytes(state)
    return KindBytes(weights=weights, activations=activations, gradients=gradients, optimizer=optimizer, peak=peak)


def speeds(seconds: Seconds, name: str, tokens: int, reference: str | None) -> Speeds:
    """Tokens per second forward and in a whole step (medians), and how many times the reference's the step's is.

    Args:
        seconds: of all methods.
        name: the method's.
        tokens: of a batch.
        reference: a method; None if there is none.
    """
    over: Ratios | None = None
    if reference is not None:
        pairs = zip(whole_step(seconds, reference), whole_step(seconds, name), strict=True)
        over = Ratios.model_validate(summary([theirs / ours for theirs, ours in pairs]))
    return Speeds(
        forward=tokens / summary(seconds[name]["forward"])["median"],
        step=tokens / summary(whole_step(seconds, name))["median"],
        rounds=len(seconds[name]["forward"]),
        over_reference=over,
    )


def whole_step(seconds: Seconds, name: str) -> Sequence[float]:
    """Forward, backward and optimizer, one per round."""
    parts = [values for values in seconds[name].values() if values]
    return [sum(of_round) for of_round in zip(*parts, strict=True)]


@dataclass(frozen=True)
class OutOfMemory:
    """Replaces the result of a method that ran out of memory; holds torch's reason."""

    reason: str


def without_memory_error(work: Callable[[], T]) -> T | OutOfMemory:
    """The result of `work`, or that it ran out of memory; what it left is freed."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        return OutOfMemory(_reason(error))
    finally:
        free()


def free() -> None:
    """Collect garbage, and give the GPU's cached memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _OutOfMemoryError(Exception):
    """A method ran out of memory in the rounds."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name, self.reason = name, reason


def _case(method: MeasuredMethod, tokens: Tensor, reset: Callable[[], None]) -> Case:
    def guarded(work: Callable[[], T]) -> T:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            reason = _reason(error)
        raise _OutOfMemoryError(method.name, reason)  # after the handler, whose traceback holds what is to be freed

    return Case(
        method.name,
        method.name,
        lambda: guarded(lambda: method.loss(tokens)),
        lambda loss: guarded(loss.backward),
        reset,
        method.optimizer,
    )


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0]


def _peak_on_gpu(method: MeasuredMethod, tokens: Tensor, base_bytes: int) -> int:
    method.model.zero_grad(set_to_none=True)
    free()
    torch.cuda.reset_peak_memory_stats()
    method.step(tokens)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return peak - base_bytes if method.full else peak  # it has its own weights beside the base's
