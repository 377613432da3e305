"""A model divided among the processes: torch's FSDP2, block by block, and its way from and to files.

Each process holds its rows of every weight, gradient and optimizer state: those that `torch.chunk` over the first
dimension would give it. A block's weights are gathered for its forward pass, and again for its backward pass.

The main process alone reads the base model. The others build it on the meta device and get their rows from the main
one, so one machine holds the whole model once in its own memory, and no device ever does. What is written is what an
undivided run writes, so that a run may be resumed on any number of processes, divided or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from multilora.errors import InputError
from multilora.training.processes import Processes
from multilora.tuner.keys import current_key

# Dividing ----------------------------------------------------------------------------------------------------------


def shard(model: Any, processes: Processes, compute_in_bf16: bool) -> None:
    """Divide a model among all processes, in place. All of them call this.

    Args:
        model: a causal language model, or a PEFT model on one: with weights on the CPU in the main process, on the meta
            device in the others.
        processes: of the run.
        compute_in_bf16: gather weights that are not in bf16 as bf16, and sum gradients in fp32.

    Raises:
        InputError: the model does not say what its blocks are, or differs between the processes.
    """
    if any(facts != _facts(model) for facts in processes.gather(_facts(model))):
        raise InputError("the model is not the same in all processes; give all machines the same files and packages")
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    kinds: set[str] = set(getattr(base, "_no_split_modules", None) or ())
    blocks = [module for module in base.modules() if type(module).__name__ in kinds]
    if not blocks:
        raise InputError(
            f"hardware.sharding: {type(base).__name__} does not name its blocks (_no_split_modules), along which it "
            "would be divided; set hardware.sharding to none"
        )
    device = _device()
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if compute_in_bf16
        else MixedPrecisionPolicy()
    )
    whole = _taken_out(model)
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (processes.count,)), "mp_policy": policy}
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is None or output.weight is not embeddings.weight:  # what is shared belongs to one group
        blocks.insert(0, embeddings)
    for module in reversed(blocks):  # inner ones first
        fully_shard(module, **options)
    fully_shard(model, **options)
    register_fsdp_forward_method(model, "generate")  # which calls the base model, past the outermost module
    base._is_fsdp_managed_module = True  # and then generates in all processes until the last one is done
    model.to_empty(device=device)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            full = whole.pop(name)
            full = full.to(device) if processes.main else torch.empty(full.shape, dtype=full.dtype, device=device)
            dist.broadcast(full, src=0)
            own, rows = _own(tensor)
            own.copy_(full[rows] if full.dim() else full)


def _facts(model: nn.Module) -> list[tuple[str, tuple[int, ...], str, bool]]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [(name, tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad) for name, tensor in tensors]


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _taken_out(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by name; it is left with ones on the meta device, shared as they were."""
    tensors: dict[str, Tensor] = {
        name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    left: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in left:
                    left[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
                module._parameters[name] = left[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to("meta")
    return tensors


def _own(tensor: Tensor) -> tuple[Tensor, slice]:
    """This process's rows of a divided tensor, with where they are in the whole; of any other tensor all of it."""
    if not isinstance(tensor, DTensor):
        return tensor, slice(None)
    own: Tensor = cast(DTensor, tensor.detach()).to_local()
    begin = min(dist.get_rank() * math.ceil(tensor.shape[0] / dist.get_world_size()), tensor.shape[0])
    return own, slice(begin, begin + own.shape[0])


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The divided parameters, those that are shared under each of their names."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the outermost keeps what it gathered for a forward pass without a backward pass
    return model.named_parameters(remove_duplicate=False)


# To files ----------------------------------------------------------------------------------------------------------


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that an undivided model's files hold: the trained ones of a PEFT model, all of any other model.

    All processes call this. The main one gets the tensors, on the CPU; the others nothing.
    """
    main, weights, seen = dist.get_rank() == 0, dict[str, Tensor](), dict[int, Tensor]()
    for name, parameter in _parameters(model):
        if parameter.requires_grad or not isinstance(model, PeftModel):
            if id(parameter) not in seen:
                seen[id(parameter)] = _whole(parameter.detach(), main)
            weights[name] = seen[id(parameter)]
    if not isinstance(model, PeftModel):
        weights |= {name: tensor for name, tensor in model.state_dict().items() if not isinstance(tensor, DTensor)}
    return weights if main else {}


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state as that of an undivided model. All processes call this; the main one gets the tensors."""
    main = dist.get_rank() == 0
    whole = {
        number: {name: _whole(value, main) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": whole}


def _whole(tensor: Any, main: bool) -> Any:
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if main else full.new_empty(0)


# From files --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Read a checkpoint's weights, of which each process takes its rows.

    Raises:
        RuntimeError: the files do not hold the weights that the model would write.
    """
    detached: dict[int, Tensor] = {}
    tensors = {name: detached.setdefault(id(tensor), tensor.detach()) for name, tensor in _parameters(model)}
    if isinstance(model, PeftModel):
        tensors = cast(Any, get_peft_model_state_dict)(model, state_dict=tensors, save_embedding_layers=False)
    else:
        tensors |= dict(model.named_buffers())
    read: set[int] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with cast(Any, safe_open)(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no mapping
                name = current_key(key)
                if name not in tensors:
                    raise RuntimeError(f"{str(file)!r} holds {key!r}, which the model does not have")
                own, rows = _own(tensors[name])
                if own.numel():
                    own.copy_(opened.get_slice(key)[rows])
                read.add(id(tensors[name]))
    if lacking := [name for name, tensor in tensors.items() if isinstance(tensor, DTensor) and id(tensor) not in read]:
        raise RuntimeError(f"{str(folder)!r} lacks {len(lacking)} weights, such as {lacking[0]!r}")


def own_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's rows of an undivided model's optimizer state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    own = {
        number: {name: _like(parameter, value) for name, value in state["state"][number].items()}
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in state["state"]
    }
    return {**state, "state": own}


def _like(parameter: Tensor, value: Any) -> Any:
    """A whole tensor divided as the parameter is; numbers as they are."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    _, rows = _own(parameter)
    return DTensor.from_local(
        value[rows].to(parameter.device, copy=True),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
