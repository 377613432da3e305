"""Parameter counts: the base model's by kind, and by formula what each method trains."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import (
    _get_in_out_features,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
)
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import PreTrainedModel

from multilora.errors import InputError
from multilora.recipe import FullMethod, LoraMethod, MultiLoraMethod
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.linear import can_adapt
from multilora.tuner.targets import check_target, expand_all_linear, linear_layer_names, nearest_layers

Method = MultiLoraMethod | LoraMethod | FullMethod
BYTES_TRAINED = 4  # what is trained is in fp32, and so is its file


@dataclass(frozen=True)
class Adapter:
    """The adapter of one layer.

    Attributes:
        name: the base layer's.
        d_in, d_out: its features.
        rank: of A and B together: n·r for MultiLoRA.
        scales: numbers in the learned scale.
        bias: numbers in the base layer's bias.
    """

    name: str
    d_in: int
    d_out: int
    rank: int
    scales: int
    bias: int

    @property
    def trained(self) -> int:
        """Parameters of the adapter: rank·(d_in + d_out) and the scale."""
        return self.rank * (self.d_in + self.d_out) + self.scales


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; shared ones count once.

    Attributes:
        base: the base model's by kind: embeddings, linear, output_layer, other (norms).
        trained: what is trained by kind: lora_A, lora_B, scaling, bias, modules_to_save, token_embeddings; for full
            fine-tuning the base model's kinds.
        adapters: the adapted layers, in the model's order.
        added: trained parameters that the base model does not have.
    """

    base: Mapping[str, int]
    trained: Mapping[str, int]
    adapters: tuple[Adapter, ...]
    added: int

    @property
    def base_total(self) -> int:
        return sum(self.base.values())

    @property
    def trainable(self) -> int:
        return sum(self.trained.values())

    @property
    def file_bytes(self) -> int:
        """Bytes of the tensors in the file that training writes."""
        return self.trainable * BYTES_TRAINED

    @classmethod
    def of(cls, model: nn.Module, method: Method) -> Parameters:
        """Count for a base model, which may be on the meta device and is not changed.

        Raises:
            InputError: the method names layers that the model does not have, or that cannot be adapted.
        """
        base = _base_kinds(model)
        if isinstance(method, FullMethod):
            return cls(base, base, (), 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when the method is applied
            config = method.peft_config()
        adapters = adapted_layers(model, config)
        bias = sum(adapter.bias for adapter in adapters)
        if method.bias == "all":
            bias = sum(p.numel() for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias")
        trained = {
            "lora_A": sum(adapter.rank * adapter.d_in for adapter in adapters),
            "lora_B": sum(adapter.rank * adapter.d_out for adapter in adapters),
            "scaling": sum(adapter.scales for adapter in adapters),
            "bias": 0 if method.bias == "none" else bias,
            "modules_to_save": _modules_to_save(model, method.modules_to_save or ()),
            "token_embeddings": _token_embeddings(model, method.trainable_token_indices),
        }
        trained = {kind: count for kind, count in trained.items() if count}
        return cls(base, trained, tuple(adapters), sum(trained.values()) - trained.get("bias", 0))


def adapted_layers(model: nn.Module, config: PeftConfig) -> list[Adapter]:
    """The layers that PEFT would adapt, found by its own rules.

    Raises:
        InputError: none matches, one cannot be adapted, or it is the output layer.
    """
    matching = copy.copy(config)
    is_target: Callable[[PeftConfig, str], Any] = check_target_module_exists
    if isinstance(matching, MultiLoraConfig):
        expand_all_linear(matching, model)
        is_target = check_target
    else:
        matching = _maybe_include_all_linear_layers(matching, model)
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    found: list[Adapter] = []
    for name, module in model.named_modules():
        if name and is_target(matching, name):  # what is excluded is false too
            if module is output:
                raise InputError(
                    f"method.target_modules match the output layer {name!r}, whose adapter the loss would not see; "
                    "leave it out, or train the whole layer with method.modules_to_save"
                )
            found.append(_adapter(name, module, config))
    if not found:
        targets: str | set[str] = cast(Any, config).target_modules
        wanted = [targets] if isinstance(targets, str) else sorted(targets)
        near = nearest_layers(wanted, linear_layer_names(model))
        raise InputError(f"method.target_modules {wanted} match no layer to adapt{near}")
    return found


def _adapter(name: str, module: nn.Module, config: Any) -> Adapter:
    if not can_adapt(module):
        raise InputError(
            f"method.target_modules match {name!r}, a {type(module).__name__}: only linear layers can be reckoned with"
        )
    d_in, d_out = cast(tuple[int, int], _get_in_out_features(module))
    r = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), name), config.r)
    num_loras = getattr(config, "num_loras", 1)
    scales = {"vector": num_loras * d_out, "scalar": num_loras, "none": 0}[getattr(config, "scaling", "none")]
    bias = getattr(module, "bias", None)
    return Adapter(name, d_in, d_out, num_loras * r, scales, 0 if bias is None else bias.numel())


def _base_kinds(model: nn.Module) -> dict[str, int]:
    """Where the output layer shares the embeddings' weight, it counts as embeddings."""
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    kinds = {"embeddings": 0, "linear": 0, "output_layer": 0, "other": 0}
    seen: set[int] = set()
    for module in model.modules():
        kind = "output_layer" if module is output else "embeddings" if isinstance(module, nn.Embedding) else None
        kind = kind or ("linear" if can_adapt(module) else "other")
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                kinds[kind] += parameter.numel()
    return {kind: count for kind, count in kinds.items() if count}


def _modules_to_save(model: nn.Module, wanted: Iterable[str]) -> int:
    """PEFT trains a copy of every module whose name ends in one of the names."""
    endings = tuple(wanted)
    modules = [module for name, module in model.named_modules(remove_duplicate=False) if name.endswith(endings)]
    if endings and not modules:
        raise InputError(f"method.modules_to_save {list(endings)} match no module of the model")
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _token_embeddings(model: nn.Module, indices: Any) -> int:
    if not indices:
        return 0
    if isinstance(indices, list):
        width = cast(Any, model).get_input_embeddings().weight.shape[1]
        return len(cast(list[int], indices)) * width
    total = 0
    for wanted, tokens in cast(dict[str, list[int]], indices).items():
        modules = [module for name, module in model.named_modules() if name.endswith(wanted)]
        if not modules:
            raise InputError(f"method.trainable_token_indices: {wanted!r} matches no module of the model")
        total += sum(len(tokens) * math.prod(cast(Any, module).weight.shape[1:]) for module in modules)
    return total
