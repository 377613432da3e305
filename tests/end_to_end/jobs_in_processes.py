"""Started by torchrun: trains several recipes one after the other, so that the libraries are imported once.

Its argument is a JSON file with a list of jobs: `recipe` (a path), `set` (overrides), `name`, `resume`, `copy_of` (a
finished run: first put a copy of it into the output folder) with `undo_to` (as if it had been killed after that step's
checkpoint). What a process raised is written to `NAME.RANK.txt` beside the file. With `shards` the model is divided, by
us ("ours") or by accelerate's FSDP2 ("accelerate"), and looked at instead of trained, and what was seen is written to
`NAME.RANK.json`.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from multilora.base.loading import ModelSource, weights_dtype
from multilora.errors import InputError
from multilora.recipe import FullMethod, Recipe
from multilora.recipe.file import load_recipe
from multilora.training.model import apply_method
from multilora.training.processes import Processes
from multilora.training.run import train
from multilora.training.sharding import load_weights, shard, whole_weights
from multilora.training.trainer import save_weights
from multilora.tuner.linear import MultiLoraLinear
from tiny_run import undo


def main(jobs_file: Path) -> None:
    jobs: list[dict[str, Any]] = json.loads(jobs_file.read_text())
    processes = Processes.current()
    for job in jobs:
        recipe = load_recipe(Path(job["recipe"]), job["set"])
        if "copy_of" in job and processes.main:
            shutil.copytree(job["copy_of"], recipe.training.output)
            undo(recipe.training.output, job["undo_to"])
        beside = str(jobs_file.parent / f"{job['name']}.{os.environ['RANK']}")
        try:
            if job.get("shards"):
                Path(f"{beside}.json").write_text(json.dumps(look_at_shards(recipe, processes, job["shards"])))
            else:
                train(recipe, resume=job.get("resume", False))
        except InputError as error:
            Path(f"{beside}.txt").write_text(str(error))


# A divided model beside a whole one ---------------------------------------------------------------------------------


def look_at_shards(recipe: Recipe, processes: Processes, by: str) -> dict[str, Any]:
    """Divide a model, and compare with the whole one, which every process has beside it."""
    source, dtype = ModelSource.find(recipe.model), weights_dtype(recipe.method, recipe.training.precision)
    torch.manual_seed(0)
    whole, _ = apply_method(source.model(dtype), recipe.method)
    with torch.no_grad():  # scales that are not zero, so that everything has a gradient
        for parameter in whole.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model = copy.deepcopy(whole)
    if by == "ours" and not processes.main:
        model, _ = apply_method(source.model(dtype, empty=True), recipe.method)
    on_meta = all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    if by == "ours":
        in_bf16 = recipe.training.precision == "bf16" and isinstance(recipe.method, FullMethod)
        shard(model, processes, compute_in_bf16=in_bf16)
    else:
        model = by_accelerate(model, processes)

    seen = {
        "on_meta": on_meta,
        "bytes": {name: _bytes(tensor) for name, tensor in model.named_parameters()},
        "whole": {name: [_bytes(tensor), len(tensor)] for name, tensor in whole.named_parameters()},
        "plain_outside": _fused(model),
    }
    gathered = processes.by_main(lambda: None) or whole_weights(model)
    trained = {name: tensor for name, tensor in _named(whole).items() if _is_saved(whole, name)}
    seen["gathered"] = _same(gathered, trained) if processes.main else not gathered

    plain: list[bool] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: plain.append(layer._base_is_plain_linear()))
        for layer in model.modules()
        if isinstance(layer, MultiLoraLinear)
    ]
    seen["losses"] = [_loss_and_gradients(each, recipe.training.gradient_checkpointing) for each in (whole, model)]
    for hook in hooks:
        hook.remove()
    seen["plain_inside"] = plain
    gradients = {name: tensor.grad for name, tensor in whole.named_parameters() if tensor.grad is not None}
    divided = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    seen["gradients"] = _same({name: _full(tensor) for name, tensor in divided.items()}, gradients)

    folder = recipe.training.output
    if processes.main:
        save_weights(model, folder, gathered)
    processes.gather(None)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    load_weights(model, folder)
    again = whole_weights(model)
    seen["loaded"] = _same(again, trained) if processes.main else not again
    return seen


def by_accelerate(model: nn.Module, processes: Processes) -> nn.Module:
    """As accelerate prepares a model by recipes/accelerate/fsdp2.yaml, which it does not do on a CPU by itself."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=True,
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",
        is_main_process=processes.main,
        device=torch.device("cpu"),
        parallelism_config=None,
    )
    return fsdp2_prepare_model(accelerator, model)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def _is_saved(model: nn.Module, name: str) -> bool:
    return not hasattr(model, "peft_config") or _named(model)[name].requires_grad


def _bytes(tensor: Tensor) -> int:
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.untyped_storage().nbytes()


def _full(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _same(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return tensors.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]) for name, tensor in tensors.items()
    )


def _fused(model: nn.Module) -> list[bool]:
    return [layer._base_is_plain_linear() for layer in model.modules() if isinstance(layer, MultiLoraLinear)]


def _loss_and_gradients(model: Any, checkpointing: bool) -> float:
    """On the same rows in every process, so that the mean of their gradients is each one's."""
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    ids = torch.arange(40).view(4, 10) % 50
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
