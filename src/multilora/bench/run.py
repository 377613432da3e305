"""`multilora bench`: the paper's analysis of resources, for a user's own model and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LlamaConfig

from multilora.base.shape import base_structure
from multilora.bench.machine import machine
from multilora.bench.measure import measure, measure_bytes, speeds
from multilora.bench.methods import FROZEN, MeasuredMethod, base_model, build, unique_bytes
from multilora.bench.record import (
    FORMAT,
    RESULTS,
    AtLength,
    BenchRecord,
    Busy,
    Growth,
    KindBytes,
    Machine,
    MethodCosts,
    ModuleGrowth,
    NotMeasured,
    Settings,
)
from multilora.errors import InputError
from multilora.recipe import LoraMethod, ModelSection, MultiLoraMethod
from multilora.recipe.method_names import NamedMethod, named_method
from multilora.storage.folders import is_empty, make_writable
from multilora.terminal import quiet_libraries

TOY = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
TOY_VOCABULARY = 2048


@dataclass(frozen=True)
class BenchOptions:
    """Options of `bench`.

    Attributes:
        model: a folder or an id on the hub, of which the configuration is read and no weights; default: a toy Llama.
        methods: short names; default: the frozen base, full, LoRA of rank r and n·r, MultiLoRA with 1, n and 5 modules.
        r, num_loras: of the default methods.
        batch: rows.
        lengths: tokens per row, one after the other.
        bf16: the base's weights are; adapters are fp32. Full fine-tuning is fp32 with autocast.
        checkpointing: blocks run again in backward.
        repeats: rounds, at most.
        minutes: for all rounds, at most, but for five rounds each.
        device: cpu or cuda; default: the GPU, if there is one.
        out: folder for bench.json; if None, it is not written.
        trust_remote_code: run code that comes with the model.
    """

    model: str | None = None
    methods: Sequence[str] | None = None
    r: int = 8
    num_loras: int = 3
    batch: int = 4
    lengths: Sequence[int] = (64, 128)
    bf16: bool = False
    checkpointing: bool = False
    repeats: int = 15
    minutes: float = 1.0
    device: str | None = None
    out: Path | None = None
    trust_remote_code: bool = False


def bench(options: BenchOptions, note: Callable[[str], None]) -> BenchRecord:
    """Measure each method at each length, and write bench.json.

    Args:
        options: what is measured.
        note: receives lines about what is being done.

    Raises:
        InputError: an option is out of its range, the folder cannot be written, the model cannot be built, a method is
            unknown or does not fit the model.
    """
    _check(options)
    device = _device(options.device)
    own = MultiLoraMethod.model_validate({"name": "multilora", "r": options.r, "num_loras": options.num_loras})
    named = [None if name == FROZEN else named_method(name, own) for name in _names(options)]
    methods = {FROZEN if method is None else method.name: method for method in named}
    reference = _reference(methods)
    config = _config(options)
    faults: list[NotMeasured] = []
    lengths: dict[str, AtLength] = {}
    with quiet_libraries():
        base = base_model(config, options.bf16, device)
        _check_lengths(config, options.lengths)
        if options.out is not None:
            make_writable(options.out, f"out: cannot write into {str(options.out)!r}")
        parameters = sum(p.numel() for p in base.parameters())
        note(f"{parameters:,} parameters with random weights on {device}")
        for length in options.lengths:
            lengths[str(length)] = _at(length, methods, reference, base, device, options, faults, note)
    given = {key: value for key, value in asdict(options).items() if key != "out"}
    record = BenchRecord(
        format=FORMAT,
        machine=Machine(**machine(), gpu=torch.cuda.get_device_name() if device == "cuda" else None),
        model=options.model or "toy Llama",
        base_parameters=parameters,
        settings=Settings.model_validate(given | {"device": device}),
        reference=reference,
        lengths=lengths,
        growth=growth(lengths, methods),
        faults=faults,
    )
    if options.out is not None:
        record.write(options.out / RESULTS)
    return record


def _at(
    length: int,
    methods: Mapping[str, NamedMethod | None],
    reference: str | None,
    base: Any,
    device: str,
    options: BenchOptions,
    faults: list[NotMeasured],
    note: Callable[[str], None],
) -> AtLength:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(base.config.vocab_size, (options.batch, length), generator=generator).to(device)
    found = measure(
        {name: partial(build, method, base, options.bf16, options.checkpointing) for name, method in methods.items()},
        partial(_alone, tokens=tokens, base_bytes=unique_bytes([*base.parameters(), *base.buffers()])),
        tokens,
        options.repeats,
        options.minutes / len(options.lengths),
        lambda text: note(f"{length} tokens: {text}"),
    )
    faults += [NotMeasured(method=name, length=str(length), message=why) for name, why in found.missing.items()]
    there = reference if reference in found.seconds else None
    costs: dict[str, MethodCosts] = {}
    for name in found.seconds:
        kind, num_loras, r = _section_facts(methods[name])
        trainable, adapter_bytes, kinds = found.alone[name]
        costs[name] = MethodCosts(
            kind=kind,
            num_loras=num_loras,
            r=r,
            trainable_parameters=trainable,
            adapter_bytes=adapter_bytes,
            bytes=kinds,
            tokens_per_second=speeds(found.seconds, name, tokens.numel(), there),
        )
    return AtLength(tokens=tokens.numel(), methods=costs, load=Busy.model_validate(found.load))


def _alone(method: MeasuredMethod, tokens: Tensor, base_bytes: int) -> tuple[int, int | None, KindBytes]:
    """How many parameters are trained, the adapter's bytes, and memory by kind."""
    adapter_bytes = None if method.full or method.name == FROZEN else unique_bytes(method.trainable)
    trainable = sum(p.numel() for p in method.trainable)
    return trainable, adapter_bytes, measure_bytes(method, tokens, base_bytes)


def _section_facts(
    method: NamedMethod | None,
) -> tuple[Literal["frozen", "full", "lora", "multilora"], int | None, int | None]:
    section = None if method is None else method.section
    n = section.num_loras if isinstance(section, MultiLoraMethod) else 1
    r = section.r if isinstance(section, (MultiLoraMethod, LoraMethod)) else None
    return section.name if section else "frozen", None if r is None else n, r


def growth(lengths: Mapping[str, AtLength], methods: Mapping[str, NamedMethod | None]) -> Growth:
    """How the bytes kept for backward grow, from one measured point to the next."""
    sections = {name: method.section for name, method in methods.items() if method is not None}
    sized = {name: section for name, section in sections.items() if isinstance(section, MultiLoraMethod)}
    one_rank = len({section.r for section in sized.values()}) == 1
    modules: dict[str, ModuleGrowth] = {}
    for length, at in lengths.items() if one_rank else ():
        points = sorted(
            (section.num_loras, at.methods[name].bytes.activations)
            for name, section in sized.items()
            if name in at.methods
        )
        if len(points) > 1:
            (first, least), (last, most) = points[0], points[-1]
            modules[length] = ModuleGrowth(points=points, per_module=(most - least) / (last - first))
    ends = sorted(lengths, key=int)
    per_token: dict[str, float] = {}
    if len(ends) > 1:
        low, high = lengths[ends[0]], lengths[ends[-1]]
        for name in low.methods.keys() & high.methods.keys():
            more = high.methods[name].bytes.activations - low.methods[name].bytes.activations
            per_token[name] = more / (high.tokens - low.tokens)
    return Growth(modules=modules, per_token=per_token)


def _names(options: BenchOptions) -> list[str]:
    if options.methods:
        return list(options.methods)
    counts = sorted({1, options.num_loras, 5})
    r, n = options.r, options.num_loras
    loras = [f"lora@{rank}" for rank in dict.fromkeys((r, n * r))]
    return [FROZEN, "full", *loras, *(f"multilora@{count}x{r}" for count in counts)]


def _reference(methods: Mapping[str, NamedMethod | None]) -> str | None:
    """The LoRA of the highest rank, with which speeds are compared."""
    loras = [m for m in methods.values() if m is not None and m.section.name == "lora"]
    return max(loras, key=lambda m: m.total_rank or 0).name if loras else None


def _config(options: BenchOptions) -> Any:
    if options.model is None:
        longest = max(options.lengths)
        return LlamaConfig(**TOY, vocab_size=TOY_VOCABULARY, max_position_embeddings=longest)  # pyright: ignore[reportArgumentType]
    section = {"path": options.model, "trust_remote_code": options.trust_remote_code}
    structure: Any = base_structure(ModelSection.model_validate(section))[0]
    return structure.config


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda; got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: there is no GPU that torch can use; choose cpu")
    return name


def _check(options: BenchOptions) -> None:
    for name, value in (
        ("r", options.r),
        ("num_loras", options.num_loras),
        ("batch", options.batch),
        ("repeats", options.repeats),
        *(("lengths", length) for length in options.lengths),
    ):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")
    if not options.lengths or len(set(options.lengths)) < len(options.lengths):
        raise InputError(f"lengths: name each length once; got {list(options.lengths)}")
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise InputError(f"out: {str(options.out)!r} is a file; choose a folder")
        if not is_empty(options.out) and not (options.out / RESULTS).is_file():
            raise InputError(f"out: {str(options.out)!r} is not empty and holds no bench; choose another folder")


def _check_lengths(config: Any, lengths: Sequence[int]) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and max(lengths) > most:
        raise InputError(f"lengths: the model takes {most:,} tokens at most; got {max(lengths):,}")
