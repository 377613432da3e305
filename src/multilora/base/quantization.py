"""Quantised base models: loading them, training on them in fp32, and what merging into them costs."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from multilora.errors import InputError, nearest
from multilora.recipe import QuantizationSection
from multilora.storage.rounding import RoundingError, TensorRounding
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.quantizers import quantizer_of

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def require_bitsandbytes() -> None:
    """What quantises is installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError(
            "model.quantization needs bitsandbytes, which is not installed: pip install 'multilora[quantized]'"
        )


def refuse_requantising(section: QuantizationSection | None, config: Any) -> None:
    """A model whose weights are stored quantised is not quantised again.

    Args:
        section: what the recipe says.
        config: the model's own configuration.

    Raises:
        InputError: it would be.
    """
    if section is not None and getattr(config, "quantization_config", None) is not None:
        raise InputError(
            "model.quantization: the weights are quantised already, as the model's own config.json says "
            "(quantization_config); leave it out, or name the model that they were quantised from"
        )


def bitsandbytes_config(section: QuantizationSection, dtype: torch.dtype, structure: nn.Module) -> BitsAndBytesConfig:
    """A recipe's section in the words of transformers.

    Args:
        section: what the recipe says.
        dtype: of the weights that stay as they are.
        structure: the base model, which may be on the meta device.

    Raises:
        InputError: as `kept_modules`.
    """
    skipped = kept_modules(section, structure)
    if section.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.type,
        bnb_4bit_use_double_quant=section.double_quant,
        bnb_4bit_compute_dtype=COMPUTE_DTYPES[section.compute_dtype] if section.compute_dtype else dtype,
        llm_int8_skip_modules=skipped,
    )


def stored_quantization(structure: nn.Module) -> QuantizationSection | None:
    """What a model's own configuration says of weights that are stored quantised; None if they are not.

    Args:
        structure: the base model, which may be on the meta device.

    Raises:
        InputError: they are quantised by something else than bitsandbytes.
    """
    found: Any = getattr(structure.config, "quantization_config", None)
    if found is None:
        return None
    stored: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    if stored.get("quant_method") != "bitsandbytes" or not (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
        raise InputError(
            f"the model's weights are quantised by {stored.get('quant_method')!r}, whose size is not known here; name "
            "the model that it was quantised from, with model.quantization"
        )
    linear = linear_names(structure)
    skipped = [pattern for pattern in stored.get("llm_int8_skip_modules") or () if _matches(pattern, linear)]
    of_four_bits = {
        "type": stored.get("bnb_4bit_quant_type", "fp4"),
        "double_quant": bool(stored.get("bnb_4bit_use_double_quant")),
    }
    values = {"bits": 8} if stored.get("load_in_8bit") else {"bits": 4, **of_four_bits}
    return QuantizationSection.model_validate({**values, "skip_modules": skipped})


def kept_modules(section: QuantizationSection, structure: nn.Module) -> list[str]:
    """What is not quantised, as transformers takes it: its own choice (the output layer), and what the section adds.

    Raises:
        InputError: a name that matches no linear layer.
    """
    linear = linear_names(structure)
    endings = {name.rpartition(".")[2] for name in linear}
    for pattern in section.skip_modules:
        try:
            matched = _matches(pattern, linear)
        except re.error as error:
            raise InputError(f"model.quantization.skip_modules: {pattern!r} is no pattern: {error}") from error
        if not matched:
            raise InputError(
                f"model.quantization.skip_modules: {pattern!r} matches no linear layer{nearest(pattern, endings)}"
            )
    return sorted({*get_keys_to_not_convert(structure), *section.skip_modules})


def quantised_names(section: QuantizationSection, structure: nn.Module) -> list[str]:
    """The layers of a base model that are quantised.

    Raises:
        InputError: as `kept_modules`.
    """
    kept = kept_modules(section, structure)
    return [name for name in linear_names(structure) if should_convert_module(name, kept)]


def linear_names(structure: nn.Module) -> list[str]:
    """The layers that could be: of exactly the two classes that transformers replaces."""
    return [
        name for name, module in structure.named_modules() if type(module) is nn.Linear or isinstance(module, Conv1D)
    ]


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(not should_convert_module(name, [pattern]) for name in names)


@contextmanager
def trained_in_fp32(model: nn.Module) -> Generator[None]:
    """Trainable parameters are after the block what they were before it, to the bit.

    TRL's trainers, when they are built, cast whatever is trained on a 4-bit or 8-bit base model to bf16. There steps
    that are small against a parameter are lost: the learned scale would stop, with no error. So:

        with trained_in_fp32(model):
            trainer = SFTTrainer(model, …)
    """
    before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in before:
        if parameter.dtype != data.dtype:
            parameter.data = data.to(parameter.device)


@torch.no_grad()
def requantization_errors(model: nn.Module, adapter_names: Sequence[str] | None = None) -> tuple[TensorRounding, ...]:
    """What merging adapters into the weights that bitsandbytes packed would cost, layer by layer.

    M is what the layer holds after `merge`, dequantised: W + ΔW quantised as W is. W is the dequantised weight. Nothing
    is changed; memory holds one layer at a time.

    Args:
        model: with adapters, none of them merged.
        adapter_names: the adapters to merge; None: the active ones.

    Returns:
        For every layer with a packed weight, in the model's order, the error of M against W + ΔW; empty if no
        layer has a packed weight.
        `relative_to_delta` says how much of ΔW is left: at 1 the error is as large as ΔW. `lost` is not counted, as a
        new scale moves all the numbers that share it.

    Raises:
        InputError: adapters are merged already.
    """
    found: list[TensorRounding] = []
    for name, layer in model.named_modules():
        if not isinstance(layer, MultiLoraLayer):
            continue
        base = layer.get_base_layer()
        if (quantizer := quantizer_of(base)) is None:
            continue
        if layer.merged:
            raise InputError(
                f"the error of merging can be measured before merging only, and {layer.merged_adapters} are merged; "
                "call unmerge_adapter() first"
            )
        wanted = check_adapters_to_merge(layer, None if adapter_names is None else list(adapter_names))
        adapters = [adapter for adapter in wanted if adapter in layer.multilora_A]
        if not adapters:
            continue
        exact = weight = layer.get_base_weight()
        for adapter in adapters:
            exact = layer._plus_delta(exact, adapter, sign=1)
        delta = torch.stack([layer.get_delta_weight(adapter) for adapter in adapters]).sum(0).to(exact)
        merged = quantizer.repacked(base, exact.to(weight.dtype))
        error = RoundingError()
        error.add(weight, delta, exact, merged)
        found.append(
            TensorRounding(
                name=f"{name.removeprefix('base_model.model.')}.weight",
                largest=error.largest,
                relative=error.relative,
                relative_to_delta=error.relative_to_delta if error.delta else None,
                lost=None,
            )
        )
    return tuple(found)
