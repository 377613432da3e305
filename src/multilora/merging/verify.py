"""Whether a merged model computes what the base model with its adapters computes, by their logits."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from multilora.adapter.file import AdapterFile
from multilora.errors import InputError

TOLERANCE = 1e-5  # of max |logit|, where the merged weights are in fp32
_LAST_BITS = 4  # times what the last bit of every weight changes, in a model that enlarges rounding beyond that
_ROWS, _LENGTH = 4, 32


@dataclass(frozen=True)
class Verification:
    """Logits of the merged model beside those of the adapted one, both computed in fp32.

    Attributes:
        difference: max |merged − adapted| / max |adapted|.
        same_top: share of the positions whose likeliest token is the same.
        positions: how many were compared, of random tokens.
        tolerance: the largest difference allowed: 1e-5, or the effect of rounding alone on this model if larger;
            None: the merged weights are rounded to half precision, and no bound is known.
    """

    difference: float
    same_top: float
    positions: int
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """The difference is within the tolerance, if there is one, and a number."""
        return self.difference <= self.tolerance if self.tolerance is not None else self.difference < float("inf")


def verify(
    base: Path, adapters: Sequence[tuple[AdapterFile, float]], merged: Path, *, exact: bool, seed: int = 0
) -> Verification:
    """Compare on random tokens, on the CPU. Memory holds one model in fp32 at a time.

    Args:
        base: folder of the base model.
        adapters: with their weights.
        merged: folder of the merged model.
        exact: its weights are in fp32, so that nothing but the order of sums differs.
        seed: of the tokens.

    Raises:
        InputError: PEFT or transformers cannot load one of them.
    """
    check_verifiable([adapter for adapter, _ in adapters])
    generator = torch.Generator().manual_seed(seed)
    model = _load(base)
    tokens = torch.randint(model.get_input_embeddings().num_embeddings, (_ROWS, _LENGTH), generator=generator)
    model = _adapted(model, adapters)
    adapted = _logits(model, tokens)
    tolerance = None
    if exact:
        _change_last_bits(model, generator)
        tolerance = max(TOLERANCE, _LAST_BITS * _difference(_logits(model, tokens), adapted))
    del model
    gc.collect()
    found = _logits(_load(merged), tokens)
    return Verification(
        difference=_difference(found, adapted),
        same_top=float((found.argmax(-1) == adapted.argmax(-1)).float().mean()),
        positions=_ROWS * _LENGTH,
        tolerance=tolerance,
    )


def check_verifiable(adapters: Sequence[AdapterFile]) -> None:
    """One PEFT model can hold the adapters.

    Raises:
        InputError: some are of MultiLoRA and some of LoRA.
    """
    if len({adapter.adapter_config.method for adapter in adapters}) > 1:
        raise InputError(
            "verifying needs all adapters in one PEFT model, which takes either MultiLoRA or LoRA adapters; convert "
            "one kind into the other first (multilora export), or leave the verification (--verify) out"
        )


@torch.inference_mode()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    return model.eval()(tokens, use_cache=False).logits.float()


def _difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def _change_last_bits(model: Any, generator: torch.Generator) -> None:
    """Up or down, at random: as far as the rounding of a merged weight is from the adapted model's exact sum."""
    for parameter in model.parameters():
        up = torch.randint(2, parameter.shape, generator=generator, dtype=torch.int8).bool()
        parameter.copy_(torch.nextafter(parameter, torch.where(up, torch.inf, -torch.inf)))


def _load(folder: Path) -> Any:
    loader: Any = AutoModelForCausalLM
    try:
        model, info = loader.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:  # transformers' words for what it cannot load
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"verifying: cannot load {str(folder)!r} as a causal language model: {reason}") from error
    if missing := sorted(cast(set[str], info["missing_keys"])):
        raise InputError(f"verifying: {str(folder)!r} lacks weights of its model, such as {missing[0]!r}")
    return model


def _adapted(model: Any, adapters: Sequence[tuple[AdapterFile, float]]) -> Any:
    names = [f"adapter{index}" for index in range(len(adapters))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights and target modules: the plan has said what there is to say
        try:
            adapted: Any = PeftModel.from_pretrained(model, str(adapters[0][0].folder), adapter_name=names[0])
            for name, (adapter, _) in zip(names[1:], adapters[1:], strict=True):
                adapted.load_adapter(str(adapter.folder), adapter_name=name)
            if len(names) > 1:
                adapted.base_model.set_adapter(names)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"verifying: PEFT cannot load the adapters together: {reason}") from error
    for module in adapted.modules():
        if hasattr(module, "set_scale"):
            for name, (_, weight) in zip(names, adapters, strict=True):
                module.set_scale(name, weight)
    return adapted
