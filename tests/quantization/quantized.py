"""Small quantised models, loaded as training loads them. Importing this skips where bitsandbytes is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from multilora import MultiLoraConfig
from multilora.base.loading import ModelSource
from multilora.recipe import ModelSection
from multilora.tuner.bnb import packed_bits, packed_tensors
from multilora.tuner.linear import MultiLoraLinear

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'multilora[quantized]'")

NF4: dict[str, Any] = {"bits": 4}
KINDS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "nf4-fp32": (NF4, torch.float32),
    "nf4-double-bf16": ({"bits": 4, "double_quant": True}, torch.bfloat16),
    "fp4-fp32": ({"bits": 4, "type": "fp4"}, torch.float32),
    "int8-fp32": ({"bits": 8}, torch.float32),
    "int8-bf16": ({"bits": 8}, torch.bfloat16),
}
FOUR_BITS = [kind for kind, (section, _) in KINDS.items() if section["bits"] == 4]


def load(folder: Path, kind: str = "nf4-fp32", **more: Any) -> Any:
    """The model of a folder, quantised."""
    section, dtype = KINDS[kind]
    chosen = ModelSection.model_validate({"path": str(folder), "quantization": section | more})
    return ModelSource.find(chosen).model(dtype)


def adapted(model: Any, *names: str, **config: Any) -> Any:
    """The model with MultiLoRA adapters that change it, unless the configuration says otherwise."""
    settings = {"r": 4, "num_loras": 2, "target_modules": "all-linear", "init_weights": False, "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    first, *others = names or ("default",)
    result = get_peft_model(model, MultiLoraConfig(**(settings | config)), adapter_name=first)
    for name in others:
        result.add_adapter(name, MultiLoraConfig(**(settings | config)))
    return result


def layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MultiLoraLinear)}


def packed_bytes_of(model: nn.Module) -> list[Tensor]:
    """Copies of all that the packed weights consist of."""
    return [tensor.clone() for tensor in packed_tensors(model)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def dense(folder: Path, model: Any, dtype: torch.dtype) -> Any:
    """The unquantised model with the dequantised weights of a quantised one."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    for name, module in plain.named_modules():
        quantised = model.get_submodule(name)
        if packed_bits(quantised):
            wrapped = MultiLoraLinear(quantised, "reader", r=1, num_loras=1)
            module.weight.data = wrapped.get_base_weight().to(dtype)
    return plain


def ids(seed: int = 0, rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, tokens: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids() if tokens is None else tokens, use_cache=False).logits.float()


def grads(model: Any) -> dict[str, Tensor]:
    """Gradients of the adapters' parameters after one backward pass in training mode."""
    model.train()
    model.zero_grad()
    tokens = ids(1)
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
