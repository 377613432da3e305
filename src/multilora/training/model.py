"""The method on top of a base model, and what has to hold before it is trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn

from multilora.base.loading import Method
from multilora.errors import InputError
from multilora.recipe import FullMethod
from multilora.tuner.optimizer import scaling_parameters
from multilora.tuner.quantizers import packed_bits, parameter_count


def apply_method(model: Any, method: Method) -> tuple[Any, list[str]]:
    """The model with the method's trainable parameters, and warnings for the user, each once.

    Raises:
        InputError: the method does not fit the model, such as target_modules that match nothing.
    """
    if isinstance(method, FullMethod):
        if getattr(model, "is_quantized", False):
            raise InputError(
                "method full: the model's weights are quantised and cannot be trained; use method multilora or lora, "
                "or the model that they were quantised from"
            )
        model.requires_grad_(True)
        return model, []
    _refuse_packed_modules(model, method.modules_to_save or [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            adapted = get_peft_model(model, method.peft_config())
        except InputError as error:
            raise InputError(f"method: {error}") from error
        except ValueError as error:  # PEFT's own word for a configuration that does not fit the model
            raise InputError(f"method: {error}") from error
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise InputError(
            "method.target_modules match the output layer (lm_head), whose adapter the loss would not see; leave it "
            "out, or train the whole layer with method.modules_to_save"
        )
    if isinstance(adapted.get_output_embeddings(), TrainableTokensWrapper):
        raise InputError(
            "method.trainable_token_indices: the model's output layer shares the embeddings' weight "
            "(tie_word_embeddings), and the loss reads that weight past the trained tokens; untie the model, or leave "
            "them out"
        )
    about_code = (FutureWarning, DeprecationWarning)  # for who maintains the libraries, not for who trains
    return adapted, _once([str(w.message) for w in caught if not issubclass(w.category, about_code)])


def _refuse_packed_modules(model: nn.Module, wanted: list[str]) -> None:
    """PEFT trains a copy of every module whose name ends in one of the names."""
    for name, module in model.named_modules():
        if name.endswith(tuple(wanted)) and any(packed_bits(inner) for inner in module.modules()):
            raise InputError(
                f"method.modules_to_save: {name!r} is quantised, and weights in few bits cannot be trained; leave it "
                "out, or name it in model.quantization.skip_modules too"
            )


@torch.no_grad()
def check_packing(model: Any) -> None:
    """No example of a packed row sees another one: the second one's logits do not depend on the first.

    Models differ here (recurrent layers, custom attention), and so do versions of transformers; a mask that is
    not made is noticed by nothing else.

    Raises:
        InputError: an example sees another one, or the model takes no position_ids.
    """
    remedy = "leave training.packing off, or choose another model"
    length = 8
    ids = torch.arange(2 * length, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    other = ids.clone()
    other[:, :length] = ids[:, :length].flip(1)
    positions = torch.arange(length, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()  # without dropout; and nothing is drawn, so that training goes the same way as without this check
    try:
        one, two = (
            model(input_ids=x, position_ids=positions, use_cache=False).logits[:, length:] for x in (ids, other)
        )
    except TypeError as error:
        raise InputError(f"training.packing: this model takes no position_ids ({error}); {remedy}") from error
    finally:
        model.train(was_training)
    if float((one - two).abs().max()) > 1e-3 * float(one.abs().max()):
        raise InputError(
            f"training.packing: with {type(model).__name__} the examples of a packed row see each other: its attention "
            f"does not heed position_ids; {remedy}"
        )


def check_trainable(model: nn.Module) -> None:
    """Check that trainable parameters are in fp32: in bf16, steps below its resolution would be lost silently.

    Raises:
        InputError: a trainable parameter is not fp32, as those of modules_to_save on a bf16 base.
        RuntimeError: a learned scale is not; it starts at zero and would freeze.
    """
    if any(scale.dtype != torch.float32 for scale in scaling_parameters(model)):
        raise RuntimeError("a learned scale is not in fp32 after the trainer was built")
    coarse = [
        (name, str(parameter.dtype).removeprefix("torch."))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dtype != torch.float32
    ]
    if coarse:
        raise InputError(
            f"training.precision: {len(coarse)} trained parameters would be in {coarse[0][1]}, such as "
            f"{coarse[0][0]!r}, where small steps are lost; set training.precision to fp32, or leave out what "
            "trains base weights (modules_to_save, bias)"
        )


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters, each counted once where it is shared."""

    trainable: int
    total: int

    @classmethod
    def of(cls, model: nn.Module) -> ParameterCounts:
        """Count a model's parameters, adapters included."""
        parameters = list(model.parameters())
        return cls(sum(p.numel() for p in parameters if p.requires_grad), sum(parameter_count(p) for p in parameters))


def _once(messages: list[str]) -> list[str]:
    """One of each kind; messages that differ only in the layer's name before the colon are of one kind."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(message.partition(": ")[2] or message, []).append(message)
    return [same[0] + (f" (and {len(same) - 1} more such layers)" if len(same) > 1 else "") for same in kinds.values()]
