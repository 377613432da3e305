"""A training step of LLaMA-7B's shape on a GPU: speed, memory and share of the device's matmul rate, by method.

python -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import LlamaConfig

from benchmarks import common, gpu_table, gpu_targets, methods
from benchmarks.rates import Shape, device_facts, launch_seconds, matmul_rate, necessary
from multilora.bench import rounds
from multilora.bench.measure import OutOfMemory, measure, measure_bytes, speeds, without_memory_error
from multilora.bench.methods import MeasuredMethod, base_model
from multilora.terminal import quiet_libraries

METHODS = (methods.BASE, methods.LORA, methods.LORAS, methods.VECTOR)
TOLERANCE = 1e-1  # as in `training`: bf16
CHECKED = 64  # tokens, on which all methods have to compute the same function
TOY = {"d": 64, "mlp": 176, "layers": 2, "heads": 4, "vocabulary": 256, "length": 32, "r": 4}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    with quiet_libraries():
        return _measured(options)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with a device that is there; else one message and exit code 2."""
    parser = common.shape_parser((__doc__ or "").splitlines()[0], d=4096, layers=32, repeats=20, num_loras=[3, 5])
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), help="default: the GPU; with --quick the CPU if there is no GPU")
    add("--mlp", type=int, default=11008, help="the MLP's size")
    add("--heads", type=int, default=32, help="attention heads")
    add("--vocabulary", type=int, default=32000, help="tokens known")
    add("--batch", type=int, default=1, help="sequences in the batch")
    add("--length", type=int, default=2048, help="tokens per sequence")
    add("--adapter-dtype", choices=sorted(common.DTYPES), default="fp32", help="MultiLoRA's scale is fp32 in both")
    add("--checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"], help="blocks run again in backward")
    add("--minutes", type=float, default=5.0, help="time for all rounds together; each group gets at least five")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(TOY, repeats=min(options.repeats, 5), minutes=0.0)
    there = torch.cuda.is_available()
    options.device = options.device or ("cuda" if there or not options.quick else "cpu")
    if options.device == "cuda" and not there:
        print(
            "benchmarks.gpu needs a GPU that torch can use; --quick shows that it runs without one, and --device cpu "
            "with smaller sizes (--d, --mlp, --layers, --heads, --vocabulary, --length) measures the CPU",
            file=sys.stderr,
        )
        raise SystemExit(2)
    for name in ("d", "mlp", "layers", "heads", "vocabulary", "batch", "length", "r", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(options, name)}")
    if min(options.num_loras) < 1 or len(set(options.num_loras)) < len(options.num_loras):
        parser.error(f"--num-loras: each at least 1, and once; got {options.num_loras}")
    if options.d % options.heads or options.d // options.heads % 2:
        parser.error(f"--d must be an even multiple of --heads; got {options.d} and {options.heads}")
    return options


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    console = common.console()
    record = common.start_record("gpu", options)
    record["machine"] |= device_facts(options.device)
    common.print_head(console, record)
    gpu_table.head(console, record["machine"])
    base = base_model(llama(options), bf16=True, device=options.device)
    linears = [(layer.in_features, layer.out_features) for layer in methods.adapted_layers(base).values()]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(options.vocabulary, (options.batch, options.length), generator=generator)
    tokens = tokens.to(options.device)
    record["adapted_layers"] = len(linears)
    record["base_parameters"] = sum(p.numel() for p in base.parameters())
    record["matmul"] = matmul_rate(linears, tokens.numel(), torch.bfloat16, options.device)
    gpu_table.rates(console, record)
    for num_loras in options.num_loras:
        values = methods.draw_values(base, num_loras, options.r)
        differences = _same_function(base, values, tokens[:, :CHECKED], options)
        for checkpointing in options.checkpointing:
            entry = _group(num_loras, checkpointing, base, values, tokens, options, console)
            _add_rates(entry, linears, differences, record["matmul"]["flops_per_second"], options)
            record["groups"].append(entry)
            gpu_table.show(console, entry, options)
    record["targets"] = gpu_targets.check(record)
    record["targets_apply"] = gpu_targets.apply(record)
    gpu_targets.show(console, record)
    common.finish(console, record, options.output)
    return record


def build(
    name: str, base: nn.Module, values: Mapping[str, methods.Values], checkpointing: bool, options: argparse.Namespace
) -> MeasuredMethod:
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
    if checkpointing:
        inner.gradient_checkpointing_enable({"use_reentrant": False})
    return MeasuredMethod(name, model, full=False, bf16=True)


def _same_function(
    base: nn.Module, values: Mapping[str, methods.Values], tokens: Tensor, options: argparse.Namespace
) -> dict[str, float]:
    """Each method's difference from PEFT LoRA's logits; empty if there is no memory for LoRA."""

    @torch.no_grad()
    def logits(name: str) -> Tensor:
        method = build(name, base, values, False, options)
        return method.model(input_ids=tokens, use_cache=False).logits.cpu()

    found = {name: without_memory_error(partial(logits, name)) for name in METHODS if name != methods.BASE}
    outputs = {name: output for name, output in found.items() if not isinstance(output, OutOfMemory)}
    return common.check_same_function(outputs, methods.LORA, TOLERANCE) if methods.LORA in outputs else {}


def _group(
    num_loras: int,
    checkpointing: str,
    base: nn.Module,
    values: Mapping[str, methods.Values],
    tokens: Tensor,
    options: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    """Every method at one n, with or without checkpointing."""

    def alone(method: MeasuredMethod) -> dict[str, Any]:
        kinds = measure_bytes(method, tokens, 0).content()
        return {
            "label": names[method.name],
            "trainable_parameters": sum(p.numel() for p in method.trainable),
            "bytes": kinds | {"rest": kinds["peak"] - kinds["weights"] - kinds["optimizer"]},
            "launch_seconds": launch_seconds(
                lambda: method.step(tokens), lambda: method.model.zero_grad(set_to_none=True), options.device
            ),
        }

    names = methods.labels(num_loras, options.r)
    found = measure(
        {name: partial(build, name, base, values, checkpointing == "on", options) for name in METHODS},
        alone,
        tokens,
        options.repeats,
        options.minutes / (len(options.num_loras) * len(options.checkpointing)),
        lambda text: console.print(f"{text}, checkpointing {checkpointing}", style="dim", highlight=False),
    )
    timed = {name: found.alone[name] | _times(name, found.seconds, tokens.numel()) for name in found.seconds}
    return {
        "num_loras": num_loras,
        "r": options.r,
        "checkpointing": checkpointing,
        "tokens": tokens.numel(),
        "load": found.load,
        "methods": timed,
        "memory_alone": {name: of for name, of in found.alone.items() if name not in timed},
        "not_measured": {name: f"out of memory: {why}" for name, why in found.missing.items()},
    }


def _times(name: str, seconds: rounds.Seconds, tokens: int) -> dict[str, Any]:
    reference = methods.LORA if methods.LORA in seconds else None
    found = speeds(seconds, name, tokens, reference).content()
    times: dict[str, Any] = {
        "rounds": found["rounds"],
        "samples": {part: [round(v, 6) for v in values] for part, values in seconds[name].items() if values},
        "tokens_per_second": {part: found[part] for part in ("forward", "step")},
    }
    if reference is not None:
        times["speed_over_lora"] = found["over_reference"]
        times["forward_and_backward_over_lora"] = rounds.speed(seconds, name, reference)
    return times


def _add_rates(
    group: dict[str, Any],
    linears: Sequence[Shape],
    differences: Mapping[str, float],
    rate: float,
    options: argparse.Namespace,
) -> None:
    """The necessary operations, and what share of the device's rate each method's are."""
    for name, entry in (*group["methods"].items(), *group["memory_alone"].items()):
        rank = 0 if name == methods.BASE else group["num_loras"] * options.r
        head = (options.d, options.vocabulary)
        work = asdict(necessary(linears, head, options.batch, options.length, options.layers, rank))
        entry |= {"flops": work, "difference_from_lora": differences.get(name)}
        if "rounds" in entry:
            speed = entry["tokens_per_second"]
            entry["share_of_matmul_rate"] = {part: work[part] * speed[part] / group["tokens"] / rate for part in speed}


def llama(options: argparse.Namespace) -> LlamaConfig:
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


if __name__ == "__main__":
    main()
