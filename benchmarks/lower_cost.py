"""Four ways to a cheaper step, each beside what it would replace: what is kept has to pay here.

python -m benchmarks.lower_cost
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn
from trl.kernels import ChunkedLogProbFunction

from benchmarks import common, methods, prototypes
from benchmarks.training import base_model
from multilora.bench import machine, rounds
from multilora.bench.kept import live_bytes

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
NOW, CANDIDATE = "now", "candidate"
LOSS_TILE = 32768  # TRL's


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = common.parser((__doc__ or "").splitlines()[0], repeats=30, minutes=6.0, num_loras=(3,))
    add = parser.add_argument
    add("--d", type=int, default=1024, help="hidden size; the MLP's is 2.75 times as large")
    add("--layers", type=int, default=4, help="decoder blocks of the compiled model")
    add("--tokens", type=int, default=1024, help="rows of x, in sequences of half as many")
    add("--vocabulary", type=int, default=128000, help="of the output layer whose loss is computed")
    add("--only", nargs="+", choices=sorted(_CANDIDATES), default=sorted(_CANDIDATES), help="the candidates")
    options = parser.parse_args(arguments)
    if options.quick:
        options.d, options.layers, options.tokens, options.vocabulary = 128, 2, 64, 1000
        options.r, options.repeats = min(options.r, 8), min(options.repeats, 5)
    options.batch, options.length = 2, options.tokens // 2
    console = common.console()
    record = common.start_record("lower_cost", options)
    common.print_head(console, record)
    table = Table(title=f"A step with the candidate, d = {options.d}, n·r = {options.num_loras[0]} x {options.r}")
    for column in ("candidate", "dtype", "now, ms", "candidate, ms", "speed (quartiles)", "kept, MiB", "candidate's"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for name in options.only:
        for setting in options.settings:
            entry = _measure(name, setting, options)
            if entry is not None:
                record["groups"].append(entry)
                table.add_row(*_row(entry))
    console.print(table)
    common.finish(console, record, options.output)
    return record


def _measure(name: str, setting: str, options: argparse.Namespace) -> dict[str, Any] | None:
    torch.manual_seed(0)
    cases = _CANDIDATES[name](setting, options)
    if cases is None:
        return None
    minutes = options.minutes / (len(options.settings) * len(options.only))
    with machine.Load() as load:
        seconds = rounds.run_rounds(cases, options.repeats, minutes, options.clock)
    return {
        "candidate": name,
        "setting": setting,
        "speed": rounds.speed(seconds, CANDIDATE, NOW),
        "cases": [{"name": case.name, "label": case.label, **case.facts} for case in cases],
        "seconds": seconds,
        "load": load.facts,
    }


def _row(entry: dict[str, Any]) -> list[str]:
    times = [1e3 * rounds.summary(rounds.step_seconds(entry["seconds"], name))["median"] for name in (NOW, CANDIDATE)]
    speed = entry["speed"]
    return [
        entry["candidate"],
        entry["setting"],
        *(f"{time:.1f}" for time in times),
        f"{speed['median']:.3f} ({speed['q1']:.3f} to {speed['q3']:.3f})",
        *(f"{case['live_bytes'] / 2**20:.1f}" for case in entry["cases"]),
    ]


Forward = Callable[[], Tensor]


def _pair(now: Forward, candidate: Forward, leaves: Sequence[Tensor], setting: str, label: str) -> list[rounds.Case]:
    """Two ways to one scalar, whose gradients for `leaves` are checked to be the same first."""

    def gradients(forward: Forward) -> dict[str, Tensor]:
        for leaf in leaves:
            leaf.grad = None
        forward().backward()
        return {str(i): leaf.grad for i, leaf in enumerate(leaves) if leaf.grad is not None}

    first, second = gradients(now), gradients(candidate)
    for key, gradient in first.items():
        common.check_same_function({NOW: gradient, CANDIDATE: second[key]}, NOW, TOLERANCE[setting])

    def reset() -> None:
        for leaf in leaves:
            leaf.grad = None

    cases: list[rounds.Case] = []
    for name, forward in ((NOW, now), (CANDIDATE, candidate)):
        facts = {"live_bytes": live_bytes(forward, list(leaves))}
        cases.append(rounds.Case(name, label, forward, lambda loss: loss.backward(), reset, None, facts))
    return cases


def _stacked(outputs: Sequence[int], setting: str, options: argparse.Namespace, label: str) -> list[rounds.Case]:
    layers = [
        prototypes.Layer.random(options.d, d_out, options.num_loras[0], options.r, common.DTYPES[setting])
        for d_out in outputs
    ]
    x = torch.randn(options.tokens, options.d).to(common.DTYPES[setting]).requires_grad_()
    weights = [torch.randn(options.tokens, d_out).to(x.dtype) for d_out in outputs]
    leaves = [x, *(p for layer in layers for p in (layer.A, layer.B, layer.scaling))]

    def loss(ys: Sequence[Tensor]) -> Tensor:
        return torch.stack([(y * w).sum(dtype=torch.float32) for y, w in zip(ys, weights, strict=True)]).sum()

    return _pair(
        lambda: loss([layer.separate(x) for layer in layers]),
        lambda: loss(prototypes.stacked(x, layers)),
        leaves,
        setting,
        label,
    )


def _q_k_v(setting: str, options: argparse.Namespace) -> list[rounds.Case]:
    return _stacked([options.d] * 3, setting, options, "q, k, v: one product for the stacked A")


def _gate_up(setting: str, options: argparse.Namespace) -> list[rounds.Case]:
    return _stacked([options.d * 11 // 4] * 2, setting, options, "gate, up: one product for the stacked A")


def _order(setting: str, options: argparse.Namespace) -> list[rounds.Case] | None:
    """x (W + B'A)ᵀ instead of x Wᵀ + (x Aᵀ) B'ᵀ, which has fewer operations where there are more rows than features."""
    if setting != "fp32":  # W + B'A in half precision rounds small changes away: another function
        return None
    rows = 4 * options.tokens
    layer = prototypes.Layer.random(options.d, options.d, options.num_loras[0], options.r, torch.float32)
    x, weight = torch.randn(rows, options.d).requires_grad_(), torch.randn(rows, options.d)
    leaves = [x, layer.A, layer.B, layer.scaling]

    def loss(y: Tensor) -> Tensor:
        return (y * weight).sum()

    return _pair(
        lambda: loss(layer.separate(x)),
        lambda: loss(prototypes.formed(x, layer)),
        leaves,
        setting,
        f"x (W + B'A)ᵀ on {rows} rows",
    )


def _loss(setting: str, options: argparse.Namespace) -> list[rounds.Case]:
    """The whole matrix of logits against the tiles that TRL's trainers, and so `multilora train`, compute."""
    dtype = common.DTYPES[setting]
    hidden = torch.randn(options.tokens, options.d).to(dtype).requires_grad_()
    head = (torch.randn(options.vocabulary, options.d) / options.d**0.5).to(dtype)
    targets = torch.randint(options.vocabulary, (options.tokens,))

    def tiles() -> Tensor:
        chunk: Any = ChunkedLogProbFunction.apply(hidden, head, None, targets, 1.0, LOSS_TILE, None, 1.0, ())
        return -chunk[0].mean()

    return _pair(
        lambda: F.cross_entropy((hidden @ head.t()).float(), targets),
        tiles,
        [hidden],
        setting,
        f"loss in tiles, vocabulary {options.vocabulary}",
    )


def _compiled(setting: str, options: argparse.Namespace) -> list[rounds.Case]:
    """Every decoder block through torch.compile."""
    base = base_model(options, common.DTYPES[setting])
    values = methods.draw_values(base, options.num_loras[0], options.r)
    tokens = torch.randint(base.config.vocab_size, (options.batch, options.length))
    eager, compiled = (methods.build(methods.VECTOR, base, values) for _ in range(2))
    for block in _blocks(compiled):
        block.compile()
    cases: list[rounds.Case] = []
    losses: dict[str, Tensor] = {}
    for name, model in ((NOW, eager), (CANDIDATE, compiled)):

        def forward(model: nn.Module = model) -> Tensor:
            return model(input_ids=tokens, labels=tokens).loss

        losses[name] = forward().detach()
        facts = {"live_bytes": live_bytes(forward, [tokens, *model.parameters(), *model.buffers()])}
        cases.append(
            rounds.Case(
                name,
                "compiled blocks",
                forward,
                lambda loss: loss.backward(),
                lambda m=model: m.zero_grad(),
                None,
                facts,
            )
        )
    common.check_same_function(losses, NOW, TOLERANCE[setting])
    return cases


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ == "LlamaDecoderLayer"]


_CANDIDATES: dict[str, Callable[[str, argparse.Namespace], list[rounds.Case] | None]] = {
    "stacked q k v": _q_k_v,
    "stacked gate up": _gate_up,
    "order": _order,
    "loss in tiles": _loss,
    "compiled blocks": _compiled,
}


if __name__ == "__main__":
    main()
