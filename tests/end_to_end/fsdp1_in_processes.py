"""Started by torchrun: trains PEFT models under FSDP1 with PEFT's policy of what to wrap, and writes what it saw.

Its argument is a folder, which has `model`; results go into RANK.json and, for each variant, NAME/ (the adapter).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import distributed as dist
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from multilora import MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer


class Variant(NamedTuple):
    dtype: str = "float32"
    use_orig_params: bool = False
    arguments: dict[str, Any] = {}  # noqa: RUF012 - a constant
    checkpointing: bool = False
    quantised: bool = False


def variants(quantised: bool) -> dict[str, Variant]:
    found = {f"{dtype}, {orig}": Variant(dtype, orig) for dtype in ("float32", "bfloat16") for orig in (False, True)}
    found |= {
        "scalar scale, dropout of nothing": Variant(arguments={"scaling": "scalar", "lora_dropout": 1e-9}),
        "no scale": Variant("bfloat16", arguments={"scaling": "none"}),
        "checkpointing": Variant("bfloat16", checkpointing=True),
        "bias": Variant(use_orig_params=True, arguments={"bias": "multilora_only"}),
    }
    if quantised:
        found |= {f"4 bits, {orig}": Variant("bfloat16", orig, quantised=True) for orig in (False, True)}
    return found


def adapted(folder: Path, variant: Variant) -> Any:
    options: dict[str, Any] = {"dtype": getattr(torch, variant.dtype)}
    if variant.quantised:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_quant_storage=torch.bfloat16,  # as FSDP-QLoRA has it: a unit has one dtype
        )
    model = AutoModelForCausalLM.from_pretrained(folder / "model", **options)
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"r": 4, "num_loras": 3} | variant.arguments
    model = get_peft_model(model, MultiLoraConfig(**arguments))
    if variant.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def train(model: Any, rank: int | None) -> list[float]:
    """Three steps; each process has half of the rows, and one alone both halves, one after the other."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses: list[float] = []
    for rows in torch.arange(3 * 4 * 10).view(3, 4, 10) % 50:
        total = torch.zeros(())
        for half in (rows[:2], rows[2:]) if rank is None else (rows[2 * rank :][:2],):
            loss = model(input_ids=half, labels=half, use_cache=False).loss
            (loss / 2 if rank is None else loss).backward()
            total += loss.detach().float() / 2
        if rank is not None:
            dist.all_reduce(total)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def main(folder: Path, quantised: bool) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    seen: dict[str, Any] = {}
    for name, variant in variants(quantised).items():
        model = adapted(folder, variant)
        wrapped: Any = FullyShardedDataParallel(
            model,
            auto_wrap_policy=fsdp_auto_wrap_policy(model),
            use_orig_params=variant.use_orig_params,
            device_id=torch.device("cpu"),
        )
        own = sum(parameter.numel() for parameter in wrapped.parameters())
        layers = [module for module in model.modules() if isinstance(module, MultiLoraLayer)]
        leaves = [
            leaf for layer in layers for kind in layer.adapter_layer_names for leaf in getattr(layer, kind).values()
        ]
        seen[name] = {
            "losses": train(wrapped, rank),
            "own": own,
            "wrapped": sum(isinstance(leaf, FullyShardedDataParallel) for leaf in leaves),
            "leaves": len(leaves),
        }
        with FullyShardedDataParallel.state_dict_type(
            wrapped, StateDictType.FULL_STATE_DICT, FullStateDictConfig(rank0_only=True)
        ):
            state = wrapped.state_dict()
        if rank == 0:
            model.save_pretrained(str(folder / name), state_dict=state)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), quantised=sys.argv[2] == "quantised")
