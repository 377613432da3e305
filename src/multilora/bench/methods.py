"""The methods that a bench measures: one base with random weights, adapted by each of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from multilora.recipe import FullMethod
from multilora.recipe.method_names import NamedMethod
from multilora.training.model import apply_method

FROZEN = "frozen base"


@dataclass(frozen=True)
class MeasuredMethod:
    """A model and its training step.

    Attributes:
        name: the method's, or `FROZEN`.
        model: in training mode.
        full: all weights are trained, in fp32, with bf16 left to autocast.
        bf16: the base's weights, or autocast's dtype.
    """

    name: str
    model: Any
    full: bool
    bf16: bool

    @cached_property
    def trainable(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """AdamW with a learning rate of zero: a step's arithmetic, weights that stay. None if nothing is trained."""
        return torch.optim.AdamW(self.trainable, lr=0.0, fused=True) if self.trainable else None

    @property
    def existing(self) -> list[Tensor]:
        """All parameters and buffers, trainable or not."""
        return [*self.model.parameters(), *self.model.buffers()]

    def loss(self, tokens: Tensor) -> Tensor:
        """Loss of predicting the tokens (rows, length), with its graph for the backward pass."""
        with self._precision(tokens.device.type):
            return self.model(input_ids=tokens, labels=tokens, use_cache=False).loss

    def step(self, tokens: Tensor) -> None:
        """Run forward, backward and the optimizer. Gradients are None before the step and are kept after it."""
        self.loss(tokens).backward()
        if self.optimizer is not None:
            self.optimizer.step()

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if self.full and self.bf16 else nullcontext()


def base_model(config: Any, bf16: bool, device: str) -> Any:
    """A model of this configuration with random weights, on which neither time nor memory depends."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if bf16 else torch.float32)
    return model.requires_grad_(False).train()


def build(method: NamedMethod | None, base: Any, bf16: bool, checkpointing: bool) -> MeasuredMethod:
    """The base adapted by a method; if None, the frozen base, through which gradients flow as through an adapted one.

    Adapted models share the base's weights; full fine-tuning has a copy in fp32.

    Raises:
        InputError: the method does not fit the model.
    """
    full = method is not None and isinstance(method.section, FullMethod)
    shared = {} if full else {id(p): p for p in base.parameters()}
    model = copy.deepcopy(base, memo=shared)
    if full:
        model = model.float()
    if method is not None:
        model, _ = apply_method(model, method.section)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if method is None:
        model.get_input_embeddings().register_forward_hook(_with_gradient)
    return MeasuredMethod(FROZEN if method is None else method.name, model.train(), full, bf16)


def unique_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _with_gradient(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_()
