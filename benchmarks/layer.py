"""One adapted linear layer, forward and backward: every method beside PEFT's LoRA of equal rank.

python -m benchmarks.layer
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import common, group, methods
from benchmarks.products import Products, base_flops, low_rank_flops
from multilora.bench import machine, rounds
from multilora.bench.kept import live_bytes, saved_bytes

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = common.parser((__doc__ or "").splitlines()[0], repeats=60, minutes=2.0, num_loras=(1, 3, 5))
    parser.add_argument("--d-in", type=int, default=2048, help="input features")
    parser.add_argument("--d-out", type=int, default=2048, help="output features")
    parser.add_argument("--tokens", type=int, default=1024, help="rows of x")
    options = parser.parse_args(arguments)
    if options.quick:
        options.d_in, options.d_out, options.tokens = 256, 384, 128
        options.r, options.repeats = min(options.r, 8), min(options.repeats, 5)

    console = common.console()
    record = common.start_record("layer", options)
    common.print_head(console, record)
    for setting in options.settings:
        for num_loras in options.num_loras:
            entry = _run(setting, num_loras, options)
            record["groups"].append(entry)
            what = f"One linear layer, {options.d_in} → {options.d_out}, {options.tokens} tokens"
            group.show(console, entry, what)
    common.finish(console, record, options.output)
    return record


def _run(setting: str, num_loras: int, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    dtype = common.DTYPES[setting]
    base = nn.Sequential(nn.Linear(options.d_in, options.d_out, bias=False)).to(dtype)
    values = methods.draw_values(base, num_loras, options.r)
    x = torch.randn(options.tokens, options.d_in).to(dtype).requires_grad_()
    g = torch.randn(options.tokens, options.d_out).to(dtype)
    names = methods.labels(num_loras, options.r)
    models = {name: methods.build(name, base, values) for name in names}
    with torch.no_grad():
        outputs = {name: models[name](x) for name in methods.ADAPTED}
    differences = common.check_same_function(outputs, methods.LORA, TOLERANCE[setting])

    cases = [_case(name, names[name], model, x, g, num_loras * options.r) for name, model in models.items()]
    for case in cases:
        case.facts["difference_from_lora"] = differences.get(case.name)
    products = Products(options.tokens, options.d_in, options.d_out, num_loras * options.r, dtype, with_base=True)
    cases.append(rounds.Case(group.PRODUCTS, "products", products.forward, lambda _: products.backward()))
    minutes = options.minutes / (len(options.settings) * len(options.num_loras))
    with machine.Load() as load:
        seconds = rounds.run_rounds(cases, options.repeats, minutes, options.clock)
    return group.record(setting, num_loras, options.r, cases, seconds, load.facts, products_lack_base=False)


def _case(name: str, label: str, model: nn.Module, x: Tensor, g: Tensor, rank: int) -> rounds.Case:
    # The layer itself: the wrappers that PEFT puts around a model cost the same whatever the method.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = inner.get_submodule("0")
    trainable = [p for p in model.parameters() if p.requires_grad]
    common.check_adapter_dtype(name, trainable)

    def reset() -> None:
        model.zero_grad(set_to_none=True)
        x.grad = None

    def forward_to_count() -> Tensor:
        return layer(x.clone())  # a hidden state: made by the forward pass, alive only if the layer keeps it

    existing = [x, *model.parameters(), *model.buffers()]
    d_out, d_in = g.shape[1], x.shape[1]
    facts = {
        "flops": base_flops(len(x), d_in, d_out) + bool(trainable) * low_rank_flops(len(x), d_in, d_out, rank),
        "trainable_parameters": sum(p.numel() for p in trainable),
        "saved_bytes": saved_bytes(forward_to_count, existing),
        "live_bytes": live_bytes(forward_to_count, existing),
    }
    return rounds.Case(name, label, lambda: layer(x), lambda y: y.backward(g), reset, None, facts)


if __name__ == "__main__":
    main()
