"""`multilora bench`: the paper's analysis of resources, for a user's own model and device."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from multilora.base.shape import base_structure
from multilora.bench.machine import Load, machine
from multilora.bench.measure import measure_bytes, measure_seconds, speeds
from multilora.bench.record import FORMAT, RESULTS, BenchRecord
from multilora.bench.subjects import FROZEN, Subject, base_model, build, unique_bytes
from multilora.errors import InputError
from multilora.recipe import LoraMethod, ModelSection, MultiLoraMethod
from multilora.recipe.method_names import NamedMethod, named_method
from multilora.report.page import REPORT_FILE, report_on
from multilora.report.static import write_figures
from multilora.storage.folders import is_empty, make_writable, write_text
from multilora.terminal import quiet_libraries

FIGURES = "figures"
TOY = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
TOY_VOCABULARY = 2048


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        model: a folder or an id on the hub, of which the configuration is read and no weights; None: a toy Llama.
        methods: short names; None: the frozen base, full, LoRA of rank r and n·r, MultiLoRA with 1, n and 5 modules.
        r, num_loras: of the default methods.
        batch: rows.
        lengths: tokens per row, one after the other.
        bf16: the base's weights are; adapters are fp32. Full fine-tuning is fp32 with autocast.
        checkpointing: blocks run again in backward.
        repeats: rounds, at most.
        minutes: for all rounds, at most, but for five rounds each.
        device: cpu or cuda; None: the GPU, if there is one.
        out: folder for bench.json, report.html and figures/; None: nothing is written.
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


def bench(options: BenchOptions, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the content of bench.json: versions and machine, settings, and for each length the methods.

    Args:
        options: what.
        note: is told what happens, a line at a time.

    Raises:
        InputError: options that cannot be, a folder that cannot be written, a model that cannot be built, a method that
            is none or does not fit it.
    """
    _check(options)
    device = _device(options.device)
    own = MultiLoraMethod.model_validate({"name": "multilora", "r": options.r, "num_loras": options.num_loras})
    methods = [None if name == FROZEN else named_method(name, own) for name in _names(options)]
    reference = _reference(methods)
    config = _config(options)
    faults: list[dict[str, str]] = []
    lengths: dict[str, Any] = {}
    with quiet_libraries():
        base = base_model(config, options.bf16, device)
        _check_lengths(config, options.lengths)
        if options.out is not None:
            make_writable(options.out, f"--out: cannot write into {str(options.out)!r}")
        note(f"{sum(p.numel() for p in base.parameters()):,} parameters with random weights on {device}")
        for length in options.lengths:
            lengths[str(length)] = _at(length, methods, reference, base, device, options, faults, note)
    result = {
        "format": FORMAT,
        "machine": machine() | {"gpu": torch.cuda.get_device_name() if device == "cuda" else None},
        "model": options.model or "toy Llama",
        "base_parameters": sum(p.numel() for p in base.parameters()),
        "settings": {key: value for key, value in asdict(options).items() if key != "out"} | {"device": device},
        "reference": reference,
        "lengths": lengths,
        "growth": growth(lengths, methods),
        "faults": faults,
    }
    if options.out is not None:
        _write(options.out, result)
    return result


def _write(out: Path, result: Mapping[str, Any]) -> None:
    """The numbers first: whatever happens to the pictures of them, they are there."""
    write_text(out / RESULTS, json.dumps(result, indent=1) + "\n")
    if any(at["methods"] for at in result["lengths"].values()):
        record = BenchRecord.model_validate(result)
        write_figures(out / FIGURES, {}, record)
        report_on(out / REPORT_FILE, None, [], record)


def _at(
    length: int,
    methods: Sequence[NamedMethod | None],
    reference: str | None,
    base: Any,
    device: str,
    options: BenchOptions,
    faults: list[dict[str, str]],
    note: Callable[[str], None],
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(base.config.vocab_size, (options.batch, length), generator=generator).to(device)
    base_bytes = unique_bytes([*base.parameters(), *base.buffers()])
    found: dict[str, Any] = {}
    fitting: list[NamedMethod | None] = []
    for method in methods:
        name = FROZEN if method is None else method.name
        note(f"{length} tokens: memory of {name}")
        try:
            subject = build(method, base, options.bf16, options.checkpointing)
            found[name] = {
                **_section_facts(method),
                "trainable_parameters": sum(p.numel() for p in subject.trainable),
                "adapter_bytes": None if method is None or subject.full else unique_bytes(subject.trainable),
                "bytes": asdict(measure_bytes(subject, tokens, base_bytes)),
            }
        except torch.OutOfMemoryError as error:
            faults.append({"method": name, "length": str(length), "message": str(error).split("\n")[0]})
            continue
        finally:
            subject = None
            _free()
        fitting.append(method)
    note(f"{length} tokens: time of {len(fitting)} methods in turns")
    subjects: list[Subject] = [build(method, base, options.bf16, options.checkpointing) for method in fitting]
    with Load() as load:
        seconds = measure_seconds(subjects, tokens, options.repeats, options.minutes / len(options.lengths))
    there = reference if reference in found else None
    for name, method in found.items():
        method["tokens_per_second"] = speeds(seconds, name, tokens.numel(), there)
    del subjects
    _free()
    return {"tokens": tokens.numel(), "methods": found, "load": load.facts}


def _section_facts(method: NamedMethod | None) -> dict[str, Any]:
    section = None if method is None else method.section
    n = section.num_loras if isinstance(section, MultiLoraMethod) else 1
    r = section.r if isinstance(section, (MultiLoraMethod, LoraMethod)) else None
    return {"kind": section.name if section else "frozen", "num_loras": None if r is None else n, "r": r}


def growth(lengths: Mapping[str, Any], methods: Sequence[NamedMethod | None]) -> dict[str, Any]:
    """How the bytes kept for backward grow, from one measured point to the next.

    Returns:
        modules: for each length, for MultiLoRA of one rank: (n, bytes) in ascending order, and what a module more adds;
        per_token: for each method, bytes per token more, from the shortest to the longest length.
    """
    sized = [(m.name, m.section) for m in methods if m is not None and isinstance(m.section, MultiLoraMethod)]
    one_rank = len({section.r for _, section in sized}) == 1
    modules: dict[str, Any] = {}
    for length, at in lengths.items() if one_rank else ():
        points = sorted(
            (section.num_loras, at["methods"][name]["bytes"]["activations"])
            for name, section in sized
            if name in at["methods"]
        )
        if len(points) > 1:
            (first, least), (last, most) = points[0], points[-1]
            modules[length] = {"points": points, "per_module": (most - least) / (last - first)}
    ends = sorted(lengths, key=int)
    per_token: dict[str, float] = {}
    if len(ends) > 1:
        low, high = lengths[ends[0]], lengths[ends[-1]]
        for name in low["methods"].keys() & high["methods"].keys():
            more = high["methods"][name]["bytes"]["activations"] - low["methods"][name]["bytes"]["activations"]
            per_token[name] = more / (high["tokens"] - low["tokens"])
    return {"modules": modules, "per_token": per_token}


def _names(options: BenchOptions) -> list[str]:
    if options.methods:
        return list(options.methods)
    counts = sorted({1, options.num_loras, 5})
    r, n = options.r, options.num_loras
    loras = [f"lora@{rank}" for rank in dict.fromkeys((r, n * r))]
    return [FROZEN, "full", *loras, *(f"multilora@{count}x{r}" for count in counts)]


def _reference(methods: Sequence[NamedMethod | None]) -> str | None:
    """The LoRA of the highest rank, with which speeds are compared."""
    loras = [m for m in methods if m is not None and m.section.name == "lora"]
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
        raise InputError(f"--device must be cpu or cuda; got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: there is no GPU that torch can use; choose cpu")
    return name


def _check(options: BenchOptions) -> None:
    for name, value in (
        ("--rank", options.r),
        ("--num-loras", options.num_loras),
        ("--batch", options.batch),
        ("--repeats", options.repeats),
        *(("--seq-len", length) for length in options.lengths),
    ):
        if value < 1:
            raise InputError(f"{name} must be at least 1; got {value}")
    if not options.lengths or len(set(options.lengths)) < len(options.lengths):
        raise InputError(f"--seq-len: name each length once; got {list(options.lengths)}")
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise InputError(f"--out: {str(options.out)!r} is a file; choose a folder")
        if not is_empty(options.out) and not (options.out / RESULTS).is_file():
            raise InputError(f"--out: {str(options.out)!r} is not empty and holds no bench; choose another folder")


def _check_lengths(config: Any, lengths: Sequence[int]) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and max(lengths) > most:
        raise InputError(f"--seq-len: the model takes {most:,} tokens at most; got {max(lengths):,}")


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
