"""A training step of LLaMA-7B's shape on a GPU: speed, memory and share of the device's matmul rate, by method.

python -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import LlamaConfig

from benchmarks import common, gpu_table, gpu_targets, methods
from benchmarks.gpu_memory import StepBytes, step_bytes, take_step
from benchmarks.gpu_options import parsed
from benchmarks.rates import Shape, device_facts, launch_seconds, matmul_rate, necessary
from multilora.bench import machine, rounds
from multilora.bench.methods import MeasuredMethod as Subject
from multilora.bench.methods import base_model
from multilora.terminal import quiet_libraries

METHODS = (methods.BASE, methods.LORA, methods.LORAS, methods.VECTOR)
TOLERANCE = 1e-1  # as in `training`: bf16
CHECKED = 64  # tokens, on which all methods have to compute the same function


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments, (__doc__ or "").splitlines()[0])
    with quiet_libraries():
        return _measured(options)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    console = common.console()
    record = common.start_record("gpu", options)
    record["machine"] |= device_facts(options.device)
    common.print_head(console, record)
    gpu_table.head(console, record["machine"])
    base = base_model(_config(options), bf16=True, device=options.device)
    adapted = methods.adapted_layers(base)
    linears = [(layer.in_features, layer.out_features) for layer in adapted.values()]
    tokens = torch.randint(
        options.vocabulary, (options.batch, options.length), generator=torch.Generator().manual_seed(0)
    )
    tokens = tokens.to(options.device)
    record["adapted_layers"] = len(linears)
    record["base_parameters"] = sum(p.numel() for p in base.parameters())
    record["matmul"] = matmul_rate(linears, tokens.numel(), torch.bfloat16, options.device)
    gpu_table.rates(console, record)
    for num_loras in options.num_loras:
        for entry in _of_size(num_loras, base, linears, tokens, record["matmul"]["flops_per_second"], options, console):
            record["groups"].append(entry)
            gpu_table.show(console, entry, options)
        _free()
    record["targets"] = gpu_targets.check(record)
    record["targets_apply"] = gpu_targets.apply(record)
    gpu_targets.show(console, record)
    common.finish(console, record, options.output)
    return record


def _of_size(
    num_loras: int,
    base: nn.Module,
    linears: Sequence[Shape],
    tokens: Tensor,
    rate: float,
    options: argparse.Namespace,
    console: Console,
) -> list[dict[str, Any]]:
    """Every method at one n, once for each kind of checkpointing."""
    names = methods.labels(num_loras, options.r)
    values = methods.draw_values(base, num_loras, options.r)
    subjects: dict[str, Subject] = {}
    unbuilt: dict[str, str] = {}
    for name in METHODS:
        try:
            subjects[name] = _subject(name, base, values, options)
        except torch.OutOfMemoryError as error:
            unbuilt[name] = _reason("its adapters", error)
        _free()
    del values
    differences = _same_function(subjects, tokens[:, :CHECKED])
    found: list[dict[str, Any]] = []
    for checkpointing in options.checkpointing:
        for subject in subjects.values():
            _checkpoint(subject.model, checkpointing == "on")
        missing = dict(unbuilt)
        facts: dict[str, dict[str, Any]] = {}
        for name, subject in subjects.items():
            console.print(f"memory of {names[name]}, checkpointing {checkpointing}", style="dim", highlight=False)
            memory: StepBytes | None = None
            launching = 0.0
            try:
                memory = step_bytes(subject, tokens)
                reset = partial(subject.model.zero_grad, set_to_none=True)
                launching = launch_seconds(partial(take_step, subject, tokens), reset, options.device)
            except torch.OutOfMemoryError as error:
                missing[name] = _reason("a step", error)
            subject.model.zero_grad(set_to_none=True)
            if name in missing or memory is None:  # not within `except`, whose traceback would hold what is to be freed
                _free()
                continue
            rank = 0 if name == methods.BASE else num_loras * options.r
            work = necessary(
                linears, (options.d, options.vocabulary), options.batch, options.length, options.layers, rank
            )
            facts[name] = {
                "label": names[name],
                "trainable_parameters": sum(p.numel() for p in subject.trainable),
                "bytes": asdict(memory),
                "launch_seconds": launching,
                "flops": asdict(work),
                "difference_from_lora": differences.get(name),
            }
        with machine.Load() as load:
            minutes = options.minutes / (len(options.num_loras) * len(options.checkpointing))
            seconds = _rounds({name: subjects[name] for name in facts}, tokens, options.repeats, minutes, missing)
        found.append(
            {
                "num_loras": num_loras,
                "r": options.r,
                "checkpointing": checkpointing,
                "tokens": tokens.numel(),
                "load": load.facts,
                "methods": {
                    name: facts[name] | _times(name, seconds, facts[name]["flops"], tokens.numel(), rate)
                    for name in seconds
                },
                "memory_alone": {name: of for name, of in facts.items() if name not in seconds},
                "not_measured": missing,
            }
        )
    return found


def _subject(name: str, base: nn.Module, values: Mapping[str, methods.Values], options: argparse.Namespace) -> Subject:
    with torch.device(options.device):  # adapters are drawn where they stay
        model = methods.build(name, base, dict(values))
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    # So that gradients flow through every block for every method, the frozen base too.
    inner.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    if options.adapter_dtype == "bf16":
        for key, parameter in trainable.items():
            if "multilora_scaling" not in key:  # in bf16 it would stand still: its steps are smaller than its rounding
                parameter.data = parameter.data.to(torch.bfloat16)
    else:
        common.check_adapter_dtype(name, list(trainable.values()))
    return Subject(name, model, full=False, bf16=True)


def _same_function(subjects: Mapping[str, Subject], tokens: Tensor) -> dict[str, float]:
    adapted = {name: subject for name, subject in subjects.items() if name != methods.BASE}
    if methods.LORA not in adapted:
        return {}
    with torch.no_grad():
        outputs = {name: subject.model(input_ids=tokens, use_cache=False).logits for name, subject in adapted.items()}
    return common.check_same_function(outputs, methods.LORA, TOLERANCE)


class _OutOfMemoryError(Exception):
    """Which case had none left."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name, self.reason = name, reason


def _rounds(
    subjects: dict[str, Subject], tokens: Tensor, repeats: int, minutes: float, missing: dict[str, str]
) -> rounds.Seconds:
    """Interleaved, with all adapters and optimizers on the device. A method that then has no memory left is left out.

    Args:
        missing: is told which, and why.
    """

    def reset() -> None:  # everybody's: gradients of others would lie in the way
        for subject in subjects.values():
            subject.model.zero_grad(set_to_none=True)

    def case(name: str, subject: Subject) -> rounds.Case:
        def guarded(work: Any, *given: Any) -> Any:
            reason = None
            try:
                return work(*given)
            except torch.OutOfMemoryError as error:
                reason = _reason("a step beside the other methods' adapters", error)
            raise _OutOfMemoryError(name, reason)  # not within `except`, for the same reason

        return rounds.Case(
            name,
            name,
            lambda: guarded(subject.loss, tokens),
            lambda loss: guarded(loss.backward),
            reset,
            subject.optimizer,
        )

    while subjects:
        try:
            found = rounds.run_rounds([case(*item) for item in subjects.items()], repeats, minutes)
        except _OutOfMemoryError as error:
            missing[error.name] = error.reason
        else:
            reset()
            return found
        reset()
        del subjects[next(name for name in subjects if name in missing)]
        _free()
    return {}


def _times(name: str, seconds: rounds.Seconds, flops: Mapping[str, int], tokens: int, rate: float) -> dict[str, Any]:
    parts = {part: values for part, values in seconds[name].items() if values}
    step, forward = whole_step(seconds, name), seconds[name]["forward"]
    medians = {"forward": rounds.summary(forward)["median"], "step": rounds.summary(step)["median"]}
    found: dict[str, Any] = {
        "rounds": len(step),
        "seconds": {"step": rounds.summary(step)} | {part: rounds.summary(values) for part, values in parts.items()},
        "samples": {part: [round(value, 6) for value in values] for part, values in parts.items()},
        "tokens_per_second": {part: tokens / taken for part, taken in medians.items()},
        "share_of_matmul_rate": {part: flops[part] / taken / rate for part, taken in medians.items()},
    }
    if methods.LORA in seconds:
        pairs = zip(whole_step(seconds, methods.LORA), step, strict=True)
        found["speed_over_lora"] = rounds.summary([theirs / ours for theirs, ours in pairs])
        found["forward_and_backward_over_lora"] = rounds.speed(seconds, name, methods.LORA)
    return found


def whole_step(seconds: rounds.Seconds, name: str) -> list[float]:
    """Forward, backward and optimizer, one per round."""
    optimizer = seconds[name]["optimizer"]
    both = rounds.step_seconds(seconds, name)
    return [one + other for one, other in zip(both, optimizer, strict=True)] if optimizer else both


def _checkpoint(model: Any, on: bool) -> None:
    if on:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def _config(options: argparse.Namespace) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=options.d,
        intermediate_size=options.mlp,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        vocab_size=options.vocabulary,
        max_position_embeddings=options.length,
        use_cache=False,
    )


def _reason(what: str, error: BaseException) -> str:
    return f"out of memory for {what}: {str(error).split(chr(10))[0]}"


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
