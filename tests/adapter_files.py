"""Adapter folders for tests: random ones that are large enough to matter, and ways to spoil them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from multilora import MultiLoraConfig
from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE

needs_adapter_methods = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers {transformers.__version__}'s own adapter methods ask for PEFT {MIN_PEFT_VERSION}, and say so",
)
TOLERANCE = 1e-5  # relative to max |logit|


def tokens(model: PreTrainedModel) -> Tensor:
    return torch.randint(1, model.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(tokens(model), use_cache=False).logits


def assert_same_logits(ours: Tensor, expected: Tensor) -> None:
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


def save_adapter(base: PreTrainedModel, folder: Path, config: MultiLoraConfig | LoraConfig) -> Tensor:
    """Save a random adapter on `base` and return the adapted model's logits.

    It is large enough to matter: ‖ΔW‖/‖W‖ ≥ 0.1 in every layer, and logits at least 100 tolerances from the base's.
    """
    before = logits(base)
    torch.manual_seed(1)
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "multilora_scaling" in name:
            constant = getattr(config, "scaling_constant", None) or 1.0
            parameter.data.add_(0.5 / constant * parameter.data.sign())  # no scale near zero
    for module in model.modules():
        if hasattr(module, "get_delta_weight"):
            assert module.get_delta_weight("default").norm() >= 0.1 * module.get_base_layer().weight.norm()
    model.save_pretrained(folder)
    after = logits(model)
    assert (after - before).abs().max() >= 100 * TOLERANCE * after.abs().max()
    return after


def lora_config(**arguments: Any) -> LoraConfig:
    """A random plain LoRA: init_lora_weights=False fills B as well."""
    return LoraConfig(
        **({"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "init_lora_weights": False} | arguments)
    )


def without_copies_of_base_weights(base: Path, folder: Path) -> None:
    """Save an adapter again: PEFT copies the weight of an adapted output layer into it unless it is told not to."""
    model = load(AutoModelForCausalLM.from_pretrained(base), folder)
    model.save_pretrained(folder, save_embedding_layers=False)


def load(base: PreTrainedModel, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, folder).eval()


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG_FILE).read_text())


def change_config(folder: Path, **changes: Any) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps(read_config(folder) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)


class Spy:
    """safe_open, counting tensors that were read and how many of them were alive at once."""

    def __init__(self) -> None:
        self.read = self.most_alive = self._alive = 0

    def open(self, *arguments: Any, **keywords: Any) -> Any:
        self._file = safe_open(*arguments, **keywords)
        return self

    def keys(self) -> list[str]:
        return self._file.keys()

    def get_slice(self, key: str) -> Any:
        return self._file.get_slice(key)

    def get_tensor(self, key: str) -> Tensor:
        tensor = self._file.get_tensor(key)
        self.read += 1
        self._alive += 1
        self.most_alive = max(self.most_alive, self._alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    def _gone(self) -> None:
        self._alive -= 1
