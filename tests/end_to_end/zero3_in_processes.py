"""Started by torchrun: trains a PEFT model with DeepSpeed's ZeRO-3, and writes what it saw.

(Without accelerate, which takes processes on the CPU for one when DeepSpeed is on.)

Its argument is a JSON file: `model` (a folder), `method` ("multilora" or "lora"), `dtype`, `checkpointing`, `out` (a
folder).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import distributed as dist
from transformers import AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig

from multilora import MultiLoraConfig

PROMPT = torch.arange(6)[None] + 10


def methods() -> dict[str, Any]:
    return {
        "multilora": MultiLoraConfig(r=4, num_loras=3, target_modules="all-linear"),
        "scalar": MultiLoraConfig(r=4, num_loras=3, target_modules="all-linear", scaling="scalar"),
        "lora": LoraConfig(r=12, target_modules="all-linear"),
    }


def adapted(folder: str, method: str, dtype: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    torch.manual_seed(0)
    return get_peft_model(model, methods()[method])


def batches() -> torch.Tensor:
    """(steps, rows, length)."""
    return torch.arange(3 * 4 * 10).view(3, 4, 10) % 50


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def main(job: dict[str, Any]) -> None:
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it is compiled
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    if job["dtype"] == "bfloat16":
        config["bf16"] = {"enabled": True}
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    partitions_what_is_loaded = HfDeepSpeedConfig(config)
    model = adapted(job["model"], job["method"], job["dtype"])
    seen: dict[str, Any] = {"empty": [parameter.numel() == 0 for parameter in model.get_base_model().parameters()]}
    if job["checkpointing"]:  # what a PEFT model needs under ZeRO-3, by TRL's trainer too
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    optimizer = torch.optim.AdamW(trained(model), lr=5e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    del partitions_what_is_loaded

    inside: PeftModel = engine.module
    inside.eval()
    seen["before"] = inside.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False).tolist()
    inside.train()
    seen["losses"] = []
    for rows in batches():
        mine = rows[2 * rank :][:2]
        loss = engine(input_ids=mine, labels=mine, use_cache=False).loss
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        seen["losses"].append(total.item() / dist.get_world_size())
    inside.eval()
    seen["after"] = inside.generate(input_ids=PROMPT, max_new_tokens=5, do_sample=False).tolist()
    parameters = dict(inside.named_parameters())
    seen["whole"] = {name: parameter.ds_numel for name, parameter in parameters.items()}
    seen["own"] = {name: parameter.ds_tensor.numel() for name, parameter in parameters.items()}
    seen["gathered"] = sum(parameter.numel() for parameter in parameters.values())
    state = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)  # as accelerate and Trainer do
    out = Path(job["out"])
    if rank == 0:
        inside.save_pretrained(str(out / "adapter"), state_dict=state)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "state.safetensors")
    (out / f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
