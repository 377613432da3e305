"""Which layers are adapted: what "all-linear" means, what cannot be adapted and why, names that say exactly that."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _ExcludedModule, check_target_module_exists
from peft.utils import AuxiliaryTrainingWrapper, TaskType
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel

from multilora.errors import nearest
from multilora.tuner.config import ALL_LINEAR, MultiLoraConfig
from multilora.tuner.linear import can_adapt

# Layers whose weight the model reads and which it never calls, by the class that holds them. (transformers 5.23)
_NEVER_CALLED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "FalconH1Mixer": frozenset({"out_proj"}),
        "FalconMambaMixer": frozenset({"dt_proj", "out_proj"}),
        "JambaMambaMixer": frozenset({"dt_proj"}),
        "Mamba2Mixer": frozenset({"out_proj"}),
        "MambaMixer": frozenset({"dt_proj", "out_proj"}),
        "NemotronHMamba2Mixer": frozenset({"out_proj"}),
        "TDNNLayer": frozenset({"kernel"}),
        "WavLMAttention": frozenset({"q_proj", "k_proj", "v_proj", "out_proj"}),
    }
)
# The same where Mamba's CUDA kernels are installed, in training alone; elsewhere they are called.
_NOT_CALLED_UNDER_KERNELS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "BambaMixer": frozenset({"out_proj"}),
        "FalconMambaMixer": frozenset({"x_proj"}),
        "GraniteMoeHybridMambaLayer": frozenset({"out_proj"}),
        "MambaMixer": frozenset({"x_proj"}),
        "Zamba2MambaMixer": frozenset({"out_proj"}),
    }
)
_NOTHING: frozenset[str] = frozenset()

# PEFT trains these in full for the task, and for two of the three says so only after the injection.
_HEADS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        TaskType.SEQ_CLS: ("classifier", "score"),
        TaskType.TOKEN_CLS: ("classifier", "score"),
        TaskType.QUESTION_ANS: ("qa_outputs",),
    }
)


def linear_layer_names(model: nn.Module) -> list[str]:
    """Names of the modules of `model` that can be adapted, without those inside adapters and trained copies."""
    inner = _inside_wrappers(model)
    return [
        name for name, module in model.named_modules() if id(module) not in inner and can_adapt(_base_layer(module))
    ]


def expand_all_linear(config: MultiLoraConfig, model: nn.Module) -> dict[str, str]:
    """Put the names of the layers that "all-linear" means into `config`, which is changed in place.

    They are all linear and quantised linear layers but the output layer, the head that the task trains in full, what
    `layers_to_transform` leaves out, and layers that cannot be adapted.

    Returns:
        The names of those that cannot be adapted, with the reason. Nothing where `target_modules` are named.
    """
    if not (isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR):
        return {}
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    inner = _inside_wrappers(model)
    names: list[str] = []
    skipped: dict[str, str] = {}
    for name, module in model.named_modules():
        if not name or module is output or id(module) in inner or not _in_wanted_blocks(config, name):
            continue
        fault = adaptation_fault(model, name)
        if fault is None:
            names.append(name)
        elif fault and not _is_excluded(config, name):
            skipped[name] = fault
    names = [name for name in names if not is_trained_in_full(config, name)]
    others = {name for name, module in model.named_modules() if id(module) not in inner}.difference(names)
    config.target_modules = exact_target_modules(names, others)
    config.layers_to_transform = config.layers_pattern = None  # the names say it
    return skipped


def exact_target_modules(names: Sequence[str], others: Collection[str]) -> set[str] | str:
    """`target_modules` that match the modules `names` and none of `others`: a list, or an expression where none does.

    A name in a list means every module whose name ends so as well: "feature_extractor" is "x.feature_extractor" too.
    """
    endings = {other[dot + 1 :] for other in others for dot, letter in enumerate(other) if letter == "."}
    if not endings.isdisjoint(names):
        return "|".join(re.escape(name) for name in sorted(names))
    return set(names)


def adaptation_fault(model: nn.Module, name: str, *, everywhere: bool = False) -> str | None:
    """Why the module cannot be adapted; None if it can, "" if it is no linear layer at all.

    Args:
        everywhere: only what can be adapted on no machine; otherwise also what depends on the kernels installed.
    """
    parent_name, _, last = name.rpartition(".")
    module = _base_layer(model.get_submodule(name))
    owner = type(model.get_submodule(parent_name)).__name__
    if last in _NEVER_CALLED.get(owner, _NOTHING):
        return f"{owner} reads its weight and never calls it, so an adapter would be ignored"
    if not everywhere and last in _NOT_CALLED_UNDER_KERNELS.get(owner, _NOTHING):
        return f"{owner} never calls it where its CUDA kernels are installed, so an adapter would be ignored"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "torch.nn.MultiheadAttention reads its weight and never calls it, so an adapter would be ignored"
    if can_adapt(module):
        return None
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, nn.Linear):
        return f"a {kind}, which does not map d_in numbers to d_out as a linear layer does"
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if all(isinstance(size, int) for size in sizes) and not any(can_adapt(child) for child in module.modules()):
        return f"a {kind}, a kind of linear layer that PEFT does not know"
    return ""


def check_target(config: PeftConfig, name: str) -> Any:
    """PEFT's rule for whether a module is targeted; what will be trained in full never is, for every task.

    PEFT finds modules to save by the end of their names, and cannot make a trained copy of an adapted layer.
    """
    return _ExcludedModule() if is_trained_in_full(config, name) else check_target_module_exists(config, name)


def is_trained_in_full(config: PeftConfig, name: str) -> bool:
    """Whether the module is one of `modules_to_save`, or in one, or will be for the task, by the end of its name."""
    saved = (*_HEADS.get(str(config.task_type), ()), *(getattr(config, "modules_to_save", None) or ()))
    if not saved:
        return False
    parts = name.split(".")
    return any(".".join(parts[: end + 1]).endswith(saved) for end in range(len(parts)))


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what they are with "*" for numbers: "layers.*.q_proj" → those of all blocks, in order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name), []).append(name)
    return groups


def nearest_layers(wanted: Sequence[str], names: Sequence[str]) -> str:
    """`"; nearest: 'q_proj'"`: the last parts of layer names spelled most like one of `wanted`."""
    endings = sorted({name.rpartition(".")[2] for name in names})
    for word in wanted:
        if found := nearest(word.rpartition(".")[2], endings):
            return found
    return f"; the model's linear layers end in {', '.join(map(repr, endings[:12]))}" if endings else ""


def _base_layer(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _inside_wrappers(model: nn.Module) -> set[int]:
    """Identities of the modules inside adapted layers and trained copies, these themselves left out."""
    wrappers = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    return {id(inner) for wrapper in wrappers for child in wrapper.children() for inner in child.modules()}


def _in_wanted_blocks(config: MultiLoraConfig, name: str) -> bool:
    """PEFT's rule for `layers_to_transform` and `layers_pattern`, for a bare model's "layers.0.q_proj" too."""
    if config.layers_to_transform is None or config.layers_to_transform == []:
        return True
    rule = MultiLoraConfig(
        target_modules=[name.rpartition(".")[2]],
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
    )
    return bool(check_target_module_exists(rule, f"model.{name}"))


def _is_excluded(config: PeftConfig, name: str) -> bool:
    return isinstance(check_target(config, name), _ExcludedModule)
