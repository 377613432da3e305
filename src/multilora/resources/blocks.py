"""A decoder block's activations: what is kept between forward and backward, and what backward adds for a moment.

For blocks as Llama has them: two RMS norms, q, k, v and o projections with SDPA attention, gate, up and down
projections with SiLU. Per token, with H the hidden size, Q and K the widths of queries and keys, I the MLP's, e the
bytes of the computation's dtype, and what autograd saves:

    each norm           4·H + 4 (its input in fp32, the root), 4·H more where norms are trained
    q, k, v             their input once, or a copy of it for each (see `_input`)
    attention           e·(Q + 2·K) in, e·Q out, 4 per head; the mask, e·length for each block where there is one
    o                   its input is the attention's output
    gate, up            their input, as for q, k, v
    silu(gate) · up     3·e·I
    down                e·I, the product
    every adapter       x Aᵀ, rank wide
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn

from multilora.resources.parameters import Adapter
from multilora.tuner.linear import can_adapt

_ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_KNOWN = (
    "llama",
    "mistral",
    "qwen2",
)  # these share their blocks' code, but for biases and which tokens are attended to


@dataclass(frozen=True)
class Computation:
    """How a run computes, as far as activations depend on it.

    Attributes:
        method: what is trained.
        bf16: adapters on a bf16 base; for full fine-tuning, bf16 autocast on fp32 weights.
        dropout: the adapters' inputs pass through dropout.
        rows, length: of a batch, in tokens.
        masked: attention gets a mask: rows are padded or packed.
        gpu: dropout's mask takes a byte a number; on a CPU it has the numbers' dtype.
    """

    method: Literal["multilora", "lora", "full"]
    bf16: bool
    dropout: bool
    rows: int
    length: int
    masked: bool
    gpu: bool

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def bytes(self) -> int:
        """Of a number in the computation's dtype."""
        return 2 if self.bf16 else 4

    @property
    def stream_bytes(self) -> int:
        """Of a number between blocks: autocast leaves these in fp32."""
        return 4 if self.method == "full" else self.bytes


@dataclass(frozen=True)
class Block:
    """One decoder block.

    Attributes:
        hidden, queries, keys, mlp: widths: H, Q, K, I above.
        heads: of the queries.
        adapters: by role, such as "q_proj".
        parameters: of the base model in it.
    """

    hidden: int
    queries: int
    keys: int
    mlp: int
    heads: int
    adapters: Mapping[str, Adapter]
    parameters: int

    @property
    def trained(self) -> int:
        """Parameters of its adapters."""
        return sum(adapter.trained for adapter in self.adapters.values())

    @property
    def linear_weights(self) -> int:
        """Numbers in the weights of its linear layers."""
        return 2 * self.hidden * (self.queries + self.keys) + 3 * self.hidden * self.mlp

    def kept(self, how: Computation) -> int:
        """Bytes kept from the block's forward until its backward."""
        e, full = how.bytes, how.method == "full"
        norms = 2 * (4 * self.hidden + 4 + 4 * self.hidden * full)
        # With a mask SDPA takes keys and values repeated for all heads.
        keys = self.queries if how.masked else self.keys
        attention = e * (2 * self.queries + 2 * keys) + 4 * self.heads
        mlp = 3 * e * self.mlp
        inputs = (
            self._input(how, self.hidden, ("q_proj", "k_proj", "v_proj"))
            + self._input(how, self.queries, ("o_proj",), kept_anyway=True)
            + self._input(how, self.hidden, ("gate_proj", "up_proj"))
            + self._input(how, self.mlp, ("down_proj",))
        )
        rank_bytes = 4 if how.method == "lora" else e
        low_rank = rank_bytes * sum(adapter.rank for adapter in self.adapters.values())
        mask = e * how.length if how.masked else 0
        return how.tokens * (norms + attention + mlp + inputs + low_rank + mask)

    def inputs(self, how: Computation) -> int:
        """Bytes of what goes into its linear layers, each once."""
        return how.tokens * how.bytes * (2 * self.hidden + self.queries + self.mlp)

    def working(self, how: Computation) -> int:
        """Bytes that the block's backward holds beside what is kept: the gradients around the MLP's product."""
        e = how.bytes
        if how.method == "lora" and how.bf16 and "down_proj" in self.adapters:
            return how.tokens * (6 * self.mlp + 10 * self.hidden)  # in fp32 and bf16 side by side
        return how.tokens * (2 * e * self.mlp + (e + how.stream_bytes) * self.hidden)

    def _input(self, how: Computation, width: int, roles: Sequence[str], kept_anyway: bool = False) -> int:
        """Bytes per token of the input that the layers of these roles share, `width` wide."""
        e = how.bytes
        if how.method == "full":
            # Autocast casts the fp32 output of a norm for every layer anew; the others are bf16 already.
            copies = len(roles) if how.bf16 and len(roles) > 1 else 1
            return 0 if kept_anyway else copies * e * width
        adapted = sum(role in self.adapters for role in roles)
        in_fp32 = how.method == "lora" and how.bf16  # PEFT's LoRA layers copy their input to the adapter's dtype
        if how.dropout:
            dropped = 4 if how.method == "lora" else e
            return adapted * width * (dropped + (1 if how.gpu else dropped))
        if in_fp32:
            return adapted * 4 * width
        return e * width if adapted and not kept_anyway else 0


def decoder_blocks(model: nn.Module, adapters: Sequence[Adapter]) -> list[Block] | None:
    """The model's decoder blocks in their order; None where they are not as Llama has them.

    Args:
        model: a base model, which may be on the meta device.
        adapters: of all its layers.
    """
    config: Any = model.config
    if config.model_type not in _KNOWN or config.hidden_act != "silu":
        return None
    by_name = {adapter.name: adapter for adapter in adapters}
    return [
        _block(name, block, by_name, config.num_attention_heads)
        for name, block in model.named_modules()
        if name.rpartition(".")[0].endswith("layers") and name.rpartition(".")[2].isdecimal()
    ]


def _block(name: str, block: nn.Module, adapters: Mapping[str, Adapter], heads: int) -> Block:
    linear = {path.rpartition(".")[2]: path for path, module in block.named_modules() if can_adapt(module)}
    assert sorted(linear) == sorted(_ROLES)
    shapes = {
        role: cast(tuple[int, int], _get_in_out_features(block.get_submodule(path))) for role, path in linear.items()
    }
    found = {role: adapters[f"{name}.{path}"] for role, path in linear.items() if f"{name}.{path}" in adapters}
    return Block(
        hidden=shapes["q_proj"][0],
        queries=shapes["q_proj"][1],
        keys=shapes["k_proj"][1],
        mlp=shapes["gate_proj"][1],
        heads=heads,
        adapters=found,
        parameters=sum(parameter.numel() for parameter in block.parameters()),
    )
