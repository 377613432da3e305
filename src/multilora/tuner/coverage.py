"""What an adapter does not reach: parameters that no adapter fits, layers that are never called, frozen scales."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _ExcludedModule
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.quantizers import parameter_count
from multilora.tuner.targets import check_target, grouped

# Below this share of all weights nothing is said: position embeddings, learned queries, gates.
NOTICEABLE = 0.02
_NAMED = 8  # groups in one message


@dataclass(frozen=True)
class Unreached:
    """Parameters that hold matrices and are no linear layer's weight, such as the fused experts of a mixture.

    Attributes:
        where: their name with "*" for numbers.
        names: full names.
        shape: of the first.
        share: of all of the model's weights, 0 … 1.
    """

    where: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    share: float


def unreached_parameters(model: nn.Module) -> list[Unreached]:
    """Three-dimensional parameters outside convolutions, matrices of experts, and those of `nn.MultiheadAttention`."""
    total = 0
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    adapters = _inside_adapters(model)
    for name, module in model.named_modules():
        if id(module) in adapters:
            continue
        for last, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            total += parameter_count(parameter)
            if _is_unreached(module, parameter):
                found[f"{name}.{last}" if name else last] = parameter
    result: list[Unreached] = []
    for where, names in grouped(found).items():
        shape = tuple(found[names[0]].shape)
        share = sum(parameter_count(found[name]) for name in names) / total
        result.append(Unreached(where, tuple(names), shape, share))
    return result


def warn_of_unreached(model: nn.Module, config: PeftConfig) -> None:
    """One line where a noticeable share of the weights is out of reach, unless excluded or trained in full."""
    found = [each for each in unreached_parameters(model) if not _is_left_out(config, each.names[0])]
    share = sum(each.share for each in found)
    if share < NOTICEABLE:
        return
    largest = sorted(found, key=lambda each: -each.share)[:_NAMED]
    listed = ", ".join(
        f"{each.where} ({len(each.names)} of {' × '.join(map(str, each.shape))}, {each.share:.0%})" for each in largest
    )
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    owners = sorted({each.where.split(".")[-2] for each in found if "." in each.where} - {"*"})
    warnings.warn(
        f"{share:.0%} of the model's weights are in parameters that are not linear layers and stay as they are: "
        f"{listed}{more}. exclude_modules={owners} says that this is meant; modules_to_save would train them in full",
        stacklevel=3,
    )


def _inside_adapters(model: nn.Module) -> set[int]:
    """Identities of the modules that adapters put into their layers: all but the base layers."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    children = [child for layer in layers for name, child in layer.named_children() if name != "base_layer"]
    return {id(module) for child in children for module in child.modules()}


def _is_unreached(module: nn.Module, parameter: nn.Parameter) -> bool:
    if isinstance(module, (_ConvNd, nn.Linear, nn.Embedding, ParametrizationList)):
        return False
    wide = parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1
    if parameter.ndim == 2:
        return wide and (isinstance(module, nn.MultiheadAttention) or "Expert" in type(module).__name__)
    return wide and parameter.shape[0] > 1  # of one alone: positions


def _is_left_out(config: PeftConfig, parameter: str) -> bool:
    parts = parameter.split(".")[:-1]
    return any(
        isinstance(check_target(config, ".".join(parts[: end + 1])), _ExcludedModule) for end in range(len(parts))
    )


# Layers that are never called ---------------------------------------------------------------------------------------


def watch_first_forward(model: nn.Module) -> None:
    """Have the adapted layers named that the first training forward of the whole model does not call."""
    stop_watching(model)
    model.register_forward_pre_hook(_FirstForward())


def stop_watching(model: nn.Module) -> None:
    """Take the watch off again. No effect without one."""
    _remove(model._forward_pre_hooks, _FirstForward)


class _FirstForward:
    """Waits for a forward in training, notes in it which layers are called, and is gone."""

    def __call__(self, model: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not (model.training and torch.is_grad_enabled()):
            return
        _remove(model._forward_pre_hooks, _FirstForward)
        if torch.jit.is_tracing() or any(map(_is_compiled, model.modules())):
            return  # a hook would become part of what is compiled
        layers = {name: module for name, module in model.named_modules() if _is_trained(module)}
        if not layers:
            return
        _warn_of_coarse_scales(layers)
        for layer in layers.values():
            layer.register_forward_pre_hook(_Called())
        model.register_forward_hook(_AfterFirst(layers))


class _Called:
    """A layer's mark of not having been called yet: it goes at the first call."""

    def __call__(self, layer: nn.Module, args: Any) -> None:
        _remove(layer._forward_pre_hooks, _Called)


class _AfterFirst:
    """Comes after the forward; where that fails, after the next one."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.layers = layers

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        _remove(model._forward_hooks, _AfterFirst)
        missed = [name for name, layer in self.layers.items() if _remove(layer._forward_pre_hooks, _Called)]
        if _drops_layers(model):
            called = grouped(self.layers.keys() - set(missed))
            missed = [name for name in missed if next(iter(grouped([name]))) not in called]
        if missed:
            warnings.warn(_never_called(missed, self.layers), stacklevel=3)


def _never_called(missed: list[str], layers: Iterable[str]) -> str:
    of = {where: len(names) for where, names in grouped(layers).items()}
    groups = [f"{where} ({len(names)} of {of[where]})" for where, names in grouped(missed).items()]
    more = f", and {len(groups) - _NAMED} more kinds" if len(groups) > _NAMED else ""
    return (
        f"{len(missed)} adapted layers were not called in the first training forward, and their adapters got no "
        f"gradient: {', '.join(groups[:_NAMED])}{more}. If other inputs do not call them either (a vision tower "
        "or an expert may wait for its input), the model only reads their weights: leave them out with "
        "exclude_modules, since merging would add to them what training never saw"
    )


def _warn_of_coarse_scales(layers: dict[str, nn.Module]) -> None:
    """A linear scale in half precision, as TRL makes it on quantised bases, stops after some hundred steps' worth.

    A scale that counts through tanh(c·s) bears it: it is near one long before.
    """
    coarse = [
        (name, leaf.weight.dtype)
        for name, layer in layers.items()
        if isinstance(layer, MultiLoraLayer)
        for adapter, leaf in layer.multilora_scaling.items()
        if layer.scaling_function[adapter] == "linear"
        and leaf.weight.requires_grad
        and leaf.weight.dtype in (torch.bfloat16, torch.float16)
    ]
    if coarse:
        name, dtype = coarse[0]
        warnings.warn(
            f"the learned scale of {len(coarse)} layers, such as {name}, is in {str(dtype).removeprefix('torch.')}: it "
            "starts at zero and stops where a step is below its resolution, at some 500 learning rates. Make the "
            "trainer in `with multilora.base.quantization.trained_in_fp32(model)`, which keeps it in fp32, or use "
            "scaling_function='tanh', the default, which bears it",
            stacklevel=4,
        )


def _drops_layers(model: nn.Module) -> bool:
    """Whether the model leaves out whole blocks at random, as wav2vec2 does: a block's neighbours speak for it then."""
    config = getattr(model, "config", None)
    return any(getattr(config, name, 0) for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"))


def _is_compiled(module: nn.Module) -> bool:
    return bool(module._compiled_call_impl) or "_orig_mod" in module._modules


def _is_trained(module: nn.Module) -> bool:
    return (
        isinstance(module, MultiLoraLayer)
        and not module.disable_adapters
        and any(module.has_adapter(name) for name in module.active_adapters)
        and any(p.requires_grad for n, p in module.named_parameters() if not n.startswith("base_layer."))
    )


def _remove(hooks: dict[int, Any], kind: type) -> bool:
    """Remove the hooks of that kind, which may be copies of those that were registered; whether there were any."""
    keys = [key for key, hook in hooks.items() if type(hook) is kind]
    for key in keys:
        hooks.pop(key, None)  # another thread may have been here
    return bool(keys)
