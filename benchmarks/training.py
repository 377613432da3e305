"""A training step of a Llama-shaped model: every method beside PEFT's LoRA of equal rank, and the issue's targets.

python -m benchmarks.training
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import common, group, methods, targets
from benchmarks.products import Products, base_flops, low_rank_flops
from multilora.bench import machine, rounds
from multilora.bench.kept import live_bytes, saved_bytes

TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}
# So that the output layer has a large model's share of the products (4 % of the blocks'; LLaMA-7B has 2 %, and with a
# vocabulary of 32,000 this model would have 64 %).
VOCABULARY = 2048


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = common.parser((__doc__ or "").splitlines()[0], repeats=25, minutes=5.0, num_loras=(3,))
    parser.add_argument("--d", type=int, default=1024, help="hidden size; the MLP's is 2.75 times as large")
    parser.add_argument("--layers", type=int, default=4, help="decoder blocks")
    parser.add_argument("--batch", type=int, default=2, help="sequences in the batch")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    options = parser.parse_args(arguments)
    if options.quick:
        options.d, options.layers, options.batch, options.length = 128, 2, 2, 32
        options.r, options.repeats = min(options.r, 8), min(options.repeats, 5)

    console = common.console()
    record = common.start_record("training", options)
    common.print_head(console, record)
    for setting in options.settings:
        for num_loras in options.num_loras:
            entry = _run(setting, num_loras, options)
            record["groups"].append(entry)
            what = f"Llama-shaped, d = {options.d}, {options.layers} layers, {options.batch} x {options.length} tokens"
            group.show(console, entry, what)
    record["targets"] = targets.check(record["groups"])
    record["targets_apply"] = targets.apply(record["options"])
    targets.show(console, record)
    common.finish(console, record, options.output)
    return record


def base_model(options: argparse.Namespace, dtype: torch.dtype) -> LlamaForCausalLM:
    """Randomly initialised; the same weights in both dtypes up to rounding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.d,
        intermediate_size=options.d * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=max(options.d // 64, 1),
        num_key_value_heads=max(options.d // 64, 1),
        vocab_size=VOCABULARY,
        max_position_embeddings=options.length,
        use_cache=False,
    )
    return LlamaForCausalLM(config).to(dtype)


def _run(setting: str, num_loras: int, options: argparse.Namespace) -> dict[str, Any]:
    dtype = common.DTYPES[setting]
    base = base_model(options, dtype)
    values = methods.draw_values(base, num_loras, options.r)
    tokens = torch.randint(VOCABULARY, (options.batch, options.length), generator=torch.Generator().manual_seed(0))
    names = methods.labels(num_loras, options.r)
    models = {name: methods.build(name, base, values) for name in names}
    with torch.no_grad():
        outputs = {name: models[name](input_ids=tokens).logits for name in methods.ADAPTED}
    differences = common.check_same_function(outputs, methods.LORA, TOLERANCE[setting])
    del outputs

    rank = num_loras * options.r
    shapes = [(layer.in_features, layer.out_features) for layer in methods.adapted_layers(base).values()]
    flops = sum(base_flops(tokens.numel(), *shape) for shape in [*shapes, (options.d, VOCABULARY)])
    low_rank = sum(low_rank_flops(tokens.numel(), *shape, rank) for shape in shapes)
    cases = [_case(name, names[name], model, tokens) for name, model in models.items()]
    for case in cases:
        case.facts["flops"] = flops + (case.name != methods.BASE) * low_rank
        case.facts["difference_from_lora"] = differences.get(case.name)
    cases.append(_low_rank_products([(tokens.numel(), *shape, rank) for shape in shapes], dtype))
    minutes = options.minutes / (len(options.settings) * len(options.num_loras))
    with machine.Load() as load:
        seconds = rounds.run_rounds(cases, options.repeats, minutes, options.clock)
    return group.record(setting, num_loras, options.r, cases, seconds, load.facts, products_lack_base=True)


def _case(name: str, label: str, model: nn.Module, tokens: Tensor) -> rounds.Case:
    llama = model.get_base_model() if hasattr(model, "get_base_model") else model
    # So that gradients flow through every block for every method, the frozen base too.
    embedding = llama.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    trainable = [p for p in model.parameters() if p.requires_grad]
    common.check_adapter_dtype(name, trainable)

    def forward() -> Tensor:
        return model(input_ids=tokens, labels=tokens).loss

    existing = [tokens, *model.parameters(), *model.buffers()]
    facts = {
        "trainable_parameters": sum(p.numel() for p in trainable),
        "saved_bytes": saved_bytes(forward, existing),
        "live_bytes": live_bytes(forward, existing),
    }
    # A learning rate of zero: the arithmetic of a step, and all rounds and methods keep the same values.
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=0.0) if trainable else None
    return rounds.Case(
        name, label, forward, lambda loss: loss.backward(), lambda: model.zero_grad(set_to_none=True), optimizer, facts
    )


def _low_rank_products(shapes: Sequence[tuple[int, int, int, int]], dtype: torch.dtype) -> rounds.Case:
    """Every layer's six low-rank products: forward in the order of the layers, backward from the last to the first."""
    layers = [Products(*shape, dtype, with_base=False) for shape in shapes]

    def forward() -> None:
        for layer in layers:
            layer.forward()

    def backward(_: None) -> None:
        for layer in reversed(layers):
            layer.backward()

    return rounds.Case(group.PRODUCTS, "low-rank products", forward, backward)


if __name__ == "__main__":
    main()
