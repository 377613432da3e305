"""LoRA's arguments: what a script written for `LoraConfig` passes on, and what each would be here.

An argument of LoRA's that MultiLoRA lacks is accepted where it says nothing new (LoRA's default, or an option that has
no effect here), and is not kept. Anything else is refused with its remedy, and so is a name that is mistyped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from peft.tuners.lora import LoraConfig

from multilora.errors import InputError, nearest

_NO_OTHER_VARIANT = "MultiLoRA cannot be combined with {}. Leave it out, or use LoraConfig for it"
_NO_OTHER_START = "it belongs to a start that MultiLoRA does not have. Leave it out; init_weights chooses a start"


def _for_rslora(arguments: Mapping[str, Any]) -> str:
    constant = "the constant here is lora_alpha / r, and √r times the lora_alpha makes it lora_alpha / √r"
    r = arguments.get("r", 32)
    alpha = arguments.get("lora_alpha") or r
    if arguments.get("rank_pattern") or not (isinstance(r, int) and isinstance(alpha, (int, float))):
        return f"{constant}. Set lora_alpha, and alpha_pattern for the layers of rank_pattern, so"
    return f"{constant}. Set lora_alpha={math.sqrt(r) * alpha:.6g} (√{r} · {alpha:g})"


def _for_init(arguments: Mapping[str, Any]) -> str:
    return (
        "a start is chosen by init_weights here, whose default is the one to train from. Leave it out, or see its help"
    )


# What each of LoRA's arguments would be here. A text, or what makes one of all arguments.
_REMEDIES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {
        "use_rslora": _for_rslora,
        "init_lora_weights": _for_init,
        "use_dora": _NO_OTHER_VARIANT.format("DoRA; its learned scale (scaling='vector') has a number per output too"),
        "target_parameters": "MultiLoRA adapts linear layers, and no 3-D parameters such as fused experts. Leave it "
        "out, train their modules in full with modules_to_save, or use LoraConfig for them",
        "ensure_weight_tying": "MultiLoRA does not tie adapters. Leave tied layers out of target_modules and "
        "modules_to_save, or give the output layer a weight of its own first",
        "lora_bias": "B has no bias here. Leave it out; bias='multilora_only' trains the adapted layers' own biases",
        "layer_replication": "MultiLoRA adapts the layers that the model has. Copy them first, then adapt the model",
        "runtime_config": "its options speed DoRA up, and there is no DoRA here. Leave it out",
        "megatron_config": "Megatron's parallel layers are not supported. Leave it out",
        "use_qalora": _NO_OTHER_VARIANT.format("QA-LoRA"),
        "velora_config": _NO_OTHER_VARIANT.format("VeLoRA"),
        "monteclora_config": _NO_OTHER_VARIANT.format("MonteCLoRA"),
        "kasa_config": _NO_OTHER_VARIANT.format("KaSA"),
        "use_bdlora": _NO_OTHER_VARIANT.format("BD-LoRA"),
        "arrow_config": _NO_OTHER_VARIANT.format("Arrow's routing"),
        "alora_invocation_tokens": _NO_OTHER_VARIANT.format("aLoRA's invocation tokens"),
        "loftq_config": _NO_OTHER_START,
        "eva_config": _NO_OTHER_START,
        "corda_config": _NO_OTHER_START,
        "lora_ga_config": _NO_OTHER_START,
    }
)

# Whatever their value, they say nothing here: a Conv1D layer is recognised, and the others belong to options above.
_WITHOUT_EFFECT = frozenset({"fan_in_fan_out", "megatron_core", "qalora_group_size"})

# Names that no LoRA of PEFT's has, but other tools and recipes do.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "rank": "; it is called r",
        "lora_rank": "; it is called r",
        "lora_r": "; it is called r",
        "alpha": "; it is called lora_alpha",
        "dropout": "; it is called lora_dropout",
        "n": "; it is called num_loras",
        "scaling_lr_ratio": "; learning rates are the optimizer's: multilora.param_groups(model, lr, scaling_lr_ratio="
        "…), or training.scaling_lr_ratio in a recipe",
    }
)


class UnknownArgumentError(InputError, TypeError):
    """A keyword that neither MultiLoRA nor LoRA knows.

    A `TypeError` with Python's own words in it as well: by these PEFT recognises the file of a later version, and drops
    the fields that it does not know, with a warning.
    """


class LoraAttributeError(InputError, AttributeError):
    """A field of LoRA's that MultiLoRA lacks was read: an `AttributeError`, so that `getattr` has its default."""


class _Refusing:
    """What `use_rslora` is: whoever asks whether it holds goes on as with a LoRA, such as `create_lorafa_optimizer`.

    It freezes A before anything else fails, and looks at nothing of ours but this.
    """

    def __bool__(self) -> bool:
        raise InputError(
            "use_rslora was read from a MultiLoraConfig, by a function made for LoRA alone, which would treat "
            "MultiLoRA as one (create_lorafa_optimizer, for example). The constant here is lora_alpha / r; for an "
            "optimizer: multilora.param_groups, or peft.optimizers.create_loraplus_optimizer"
        )


_Config = TypeVar("_Config")


def takes_lora_arguments(cls: type[_Config]) -> type[_Config]:
    """A dataclass whose `__init__` also takes the arguments of `LoraConfig` that it has no field for."""
    init = cls.__init__
    own = tuple(field.name for field in dataclasses.fields(cls))  # pyright: ignore[reportArgumentType] - a dataclass

    @functools.wraps(init)  # its signature too, in which PEFT looks names up
    def with_loras(self: Any, *args: Any, **kwargs: Any) -> None:
        foreign = kwargs.keys() - set(own)
        init(self, *args, **(own_arguments(kwargs, own) if foreign else kwargs))

    cls.__init__ = with_loras
    cls.__getattr__ = _foreign_attribute  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def _foreign_attribute(config: Any, name: str) -> Any:
    """What is read of a configuration that lacks it."""
    loras = () if name.startswith("_") else {field.name for field in dataclasses.fields(LoraConfig)}
    if name not in loras:
        raise AttributeError(f"{type(config).__name__!r} object has no attribute {name!r}")
    if name == "use_rslora":
        return _Refusing()
    raise LoraAttributeError(
        f"{type(config).__name__} has no {name!r}, which is a field of LoraConfig. What reads it is made for LoRA "
        "alone (EVA, LoftQ, Arrow, X-LoRA and other functions of PEFT's) and does not take MultiLoRA"
    )


def own_arguments(arguments: Mapping[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    """The arguments by our names, without those of LoRA's that say nothing here.

    Args:
        arguments: keyword arguments for a configuration with the fields `own`.

    Raises:
        InputError: an argument of LoRA's has a meaning that MultiLoRA lacks; the message says what it would be.
        UnknownArgumentError: there is no such argument in LoRA either.
    """
    loras = {field.name: field for field in dataclasses.fields(LoraConfig)}
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in own:
            result[name] = value
        elif name not in loras:
            hint = _ALIASES.get(name) or nearest(name, own)
            raise UnknownArgumentError(f"MultiLoraConfig got an unexpected keyword argument {name!r}{hint}")
        elif name == "init_lora_weights" and value is False and "init_weights" not in arguments:
            result["init_weights"] = False
        elif not _says_nothing(loras[name], value):
            remedy = _REMEDIES.get(name, "MultiLoRA has nothing of the kind. Leave it out, or use LoraConfig")
            text = remedy if isinstance(remedy, str) else remedy(arguments)
            raise InputError(f"{name}={_short(value)} is LoRA's alone: {text}")
    return result


def _says_nothing(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.name in _WITHOUT_EFFECT:
        return True
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return value == default or (not value and not default)  # None, {} and [] are one


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
