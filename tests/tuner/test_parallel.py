"""Base layers whose weights are divided: refused under tensor parallelism, right under FSDP2. One process, DTensors."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from multilora import InputError, MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer


@pytest.fixture
def one_process(tmp_path: Path) -> Generator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def mesh(name: str) -> DeviceMesh:
    return init_device_mesh("cpu", (1,), mesh_dim_names=(name,))


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 16))


def adapted(dropout: float = 0.0) -> Any:
    model = base()
    config = MultiLoraConfig(r=2, target_modules=["0", "1"], init_weights=False, lora_dropout=dropout)
    return get_peft_model(model, config)


X = torch.linspace(-1, 1, 64).view(4, 16)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("plan", [ColwiseParallel(), RowwiseParallel()], ids=["columns", "rows"])
def test_an_adapter_on_a_tensor_parallel_layer_is_refused(plan: Any) -> None:
    model = parallelize_module(base(), mesh("tp"), {"1": plan})
    before = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match="layer '1' is divided among processes by tensor parallelism"):
        get_peft_model(model, MultiLoraConfig(r=2, target_modules=["0", "1"]))
    assert [type(module) for module in model.modules()] == before
    get_peft_model(model, MultiLoraConfig(r=2, target_modules=["0"]))  # which is whole


def test_a_layer_that_transformers_hooked_for_it_is_refused() -> None:
    model: Any = base()
    model[1]._is_hooked = True  # as transformers' tp_plan marks what it divides
    with pytest.raises(InputError, match=r"layer '1' is divided .*tp_plan"):
        get_peft_model(model, MultiLoraConfig(r=2, target_modules=["1"]))


@pytest.mark.usefixtures("one_process")
def test_tensor_parallelism_after_the_adapter_is_refused_in_the_forward_pass() -> None:
    model = adapted()
    parallelize_module(model.base_model.model, mesh("any"), {"1.base_layer": ColwiseParallel()})
    with pytest.raises(InputError, match="DTensor in the forward pass"):
        model(X)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("dropout", [0.0, 1e-9], ids=["fused", "added"])
@pytest.mark.parametrize("unit", ["block", "base layers", "leaves"])
def test_fsdp2_computes_what_the_undivided_model_does(dropout: float, unit: str) -> None:
    def step(model: nn.Module) -> dict[str, Tensor]:
        y = model(X)
        y.square().sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        whole = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}
        return whole | {"y": y.detach()}

    expected = step(adapted(dropout))
    model = adapted(dropout)
    for layer in [module for module in model.modules() if isinstance(module, MultiLoraLayer)]:
        if unit == "base layers":
            fully_shard(layer.base_layer, mesh=mesh("fsdp"))
        if unit == "leaves":
            for kind in layer.adapter_layer_names:
                fully_shard(getattr(layer, kind)["default"], mesh=mesh("fsdp"))
    fully_shard(model, mesh=mesh("fsdp"))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    found = step(model)
    assert found.keys() == expected.keys()
    assert len(expected) == 7
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-6), name
