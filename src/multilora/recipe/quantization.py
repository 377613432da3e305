"""How the base model is quantised."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from multilora.errors import InputError
from multilora.fields import Section


class QuantizationSection(Section):
    """The linear layers of the base model in 4 or 8 bits, by bitsandbytes, quantised while the model is loaded.

    Embeddings, norms and the output layer stay as they are. Adapters can be trained on it, in fp32 as always; the
    model itself cannot.
    """

    bits: Literal[4, 8] = Field(4, description="Bits of each weight.")
    type: Literal["nf4", "fp4"] = Field(
        "nf4", description="What 4 bits stand for: nf4, the quantiles of a normal distribution, or fp4."
    )
    double_quant: bool = Field(
        False, description="Quantise the scales of the blocks of 4-bit weights too: 0.37 bits less for each weight."
    )
    compute_dtype: Literal["bf16", "fp16", "fp32"] | None = Field(
        None, description="What 4-bit weights are dequantised to for each product. None: that of training.precision."
    )
    skip_modules: list[str] = Field(
        [],
        description="Linear layers that stay as they are, beside the output layer: names, beginnings or endings of "
        "names, such as down_proj or model.layers.0.",
    )

    @model_validator(mode="after")
    def _of_four_bits(self) -> QuantizationSection:
        default = type(self).model_fields
        for name in ("type", "double_quant", "compute_dtype"):
            value = getattr(self, name)
            if self.bits == 8 and value != default[name].default:
                raise InputError(f"{name}: {value} has no effect with bits: 8; leave it out, or set bits: 4")
        return self
