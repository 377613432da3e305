"""Adapters' parameters in leaf modules: PEFT's names and keys, older keys, names of adapters, leaves in other hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from multilora import InputError, MultiLoraConfig
from multilora.adapter.file import open_adapter
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.leaf import AdapterWeight, at_hand
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]
SCALINGS = ["vector", "scalar", "none"]


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(torch.arange(1, 9)[None], use_cache=False).logits


def random_adapter(base: nn.Module, **arguments: Any) -> PeftModel:
    torch.manual_seed(3)
    """With the scale of the first version, whose files had no leaves."""
    plain = {"scaling_function": "linear", "scaling_constant": 1.0}
    return get_peft_model(base, MultiLoraConfig(r=4, init_weights=False, **plain, **arguments)).eval()


# Names and keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_parameters_are_named_as_peft_names_lora_s(make_llama: Make, scaling: str) -> None:
    ours = random_adapter(make_llama(), scaling=scaling)
    theirs = get_peft_model(make_llama(), LoraConfig(r=4, target_modules="all-linear"))
    named = {name for name, _ in ours.named_parameters() if "scaling" not in name}
    assert {name.replace("multilora_", "lora_") for name in named} == {name for name, _ in theirs.named_parameters()}
    scales = {name for name, _ in ours.named_parameters() if "scaling" in name}
    layers = {name for name, module in ours.named_modules() if isinstance(module, MultiLoraLayer)}
    wanted = {f"{name}.multilora_scaling.default.weight" for name in layers}
    assert scales == (set() if scaling == "none" else wanted)
    keys = {key.replace("multilora_", "lora_") for key in get_peft_model_state_dict(ours) if "scaling" not in key}
    assert keys == set(get_peft_model_state_dict(theirs))


def without_leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As they were named before there were leaves."""
    return {name.removesuffix(".weight") if "multilora_" in name else name: each for name, each in tensors.items()}


@pytest.fixture(params=SCALINGS)
def old(request: pytest.FixtureRequest, make_llama: Make, tmp_path: Path) -> tuple[Path, Tensor]:
    """An adapter's folder with keys as they were, and the adapted model's logits."""
    model = random_adapter(make_llama(), scaling=request.param)
    model.save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_model.safetensors"
    tensors = without_leaves(load_file(file))
    assert not any(key.endswith(".weight") for key in tensors)
    save_file(tensors, file)
    return tmp_path, logits(model)


def read_by_peft(base: PreTrainedModel, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, str(folder))


def read_by_peft_in_little_memory(base: PreTrainedModel, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=True)


def read_by_peft_beside_another(base: PreTrainedModel, folder: Path) -> nn.Module:
    model = get_peft_model(base, MultiLoraConfig(r=2))
    model.load_adapter(str(folder), "other")
    model.set_adapter("other")
    return model


def read_by_transformers(base: PreTrainedModel, folder: Path) -> nn.Module:
    info = base.load_adapter(str(folder), adapter_name="other")
    assert not info.missing_keys
    assert not info.unexpected_keys
    return base


def injected_by_the_state_dict(base: PreTrainedModel, folder: Path) -> nn.Module:
    tensors = load_file(folder / "adapter_model.safetensors")
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    config = MultiLoraConfig.from_pretrained(str(folder))
    inject_adapter_in_model(config, base, state_dict=state)
    result = set_peft_model_state_dict(base, state)
    assert not result.unexpected_keys
    return base


def a_whole_model_s_state_dict(base: PreTrainedModel, folder: Path) -> nn.Module:
    model = PeftModel.from_pretrained(base, str(folder))
    state = without_leaves({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for parameter in model.parameters():
        parameter.data.zero_()
    assert not any(model.load_state_dict(state, strict=True))
    return model


@pytest.mark.parametrize(
    "read",
    [
        read_by_peft,
        read_by_peft_in_little_memory,
        read_by_peft_beside_another,
        read_by_transformers,
        injected_by_the_state_dict,
        a_whole_model_s_state_dict,
    ],
)
def test_files_from_before_the_leaves_are_read(
    make_llama: Make, old: tuple[Path, Tensor], read: Callable[[PreTrainedModel, Path], nn.Module]
) -> None:
    folder, expected = old
    assert torch.equal(logits(read(make_llama(), folder).eval()), expected)


def test_a_file_s_layers_are_the_same_under_both_names(make_llama: Make, old: tuple[Path, Tensor]) -> None:
    folder, _ = old
    before = open_adapter(folder)
    read_by_peft(make_llama(), folder).save_pretrained(str(folder / "new"))
    after = open_adapter(folder / "new")
    assert before.layers == after.layers
    for layer in before.layers:
        assert torch.equal(before.factors(layer).delta(), after.factors(layer).delta())


def test_a_tensor_under_both_names_is_refused(old: tuple[Path, Tensor]) -> None:
    folder, _ = old
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(iter(tensors))
    save_file(tensors | {f"{key}.weight": tensors[key].clone()}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="the same tensor under two names"):
        open_adapter(folder)


def test_what_transformers_read_from_an_old_file_it_saves_with_new_keys(
    make_llama: Make, old: tuple[Path, Tensor]
) -> None:
    folder, expected = old
    model = make_llama()
    model.load_adapter(str(folder))
    model.save_pretrained(str(folder / "new"))
    assert all(key.endswith(".weight") for key in load_file(folder / "new" / "adapter_model.safetensors"))
    assert torch.equal(logits(read_by_peft(make_llama(), folder / "new").eval()), expected)


# Names of adapters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "torch.nn.ModuleDict uses itself") for name in ("keys", "items", "forward", "training", "type")),
        *((name, "name of a module or parameter") for name in ("1", "layers", "q_proj", "lm_head", "weight", "bias")),
        *((name, "name of a module or parameter") for name in ("model", "base_model", "base_layer", "multilora_A")),
        *((name, "must not be empty or have a dot") for name in ("", "a.b")),
    ],
)  # fmt: skip
def test_names_with_which_nothing_would_be_saved_whole_are_refused(make_llama: Make, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        get_peft_model(make_llama(), MultiLoraConfig(r=2), adapter_name=name)
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2))
    with pytest.raises(InputError, match=reason):
        model.add_adapter(name, MultiLoraConfig(r=2))


@pytest.mark.parametrize("name", ["weights", "q", "0 1", "ключ", "default"])
def test_other_names_are_saved_and_loaded_whole(make_llama: Make, name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, init_weights=False), adapter_name=name)
    model.add_adapter("other", MultiLoraConfig(r=3, init_weights=False))
    for each in (name, "other"):
        model.set_adapter(each)
        model.save_pretrained(str(tmp_path), selected_adapters=[each])
        folder = tmp_path if each == "default" else tmp_path / each
        assert torch.equal(logits(read_by_peft(make_llama(), folder).eval()), logits(model.eval()))
    assert model.delete_adapter(name) is None
    model.add_adapter(name, MultiLoraConfig(r=2))  # a name that is free again


def test_an_adapter_may_be_replaced_under_its_own_name(make_llama: Make) -> None:
    model: Any = random_adapter(make_llama())
    model.base_model.inject_adapter(model.base_model.model, "default")
    assert len({id(parameter) for parameter in model.parameters()}) == len(list(model.parameters()))


# Leaves in other hands ----------------------------------------------------------------------------------------------


def test_a_leaf_is_read_and_not_called_unless_somebody_took_it_in_hand() -> None:
    leaf = AdapterWeight((2, 3))
    assert at_hand(leaf) is leaf.weight
    assert isinstance(leaf.weight, nn.Parameter)


class _Wrapper(nn.Module):
    """As FSDP1 does: the weight is there during the call, and gone after it."""

    def __init__(self, leaf: Any) -> None:
        super().__init__()
        self.leaf: Any = leaf
        self.kept = leaf.weight.detach().clone()
        leaf.weight.data.zero_()

    def forward(self) -> Tensor:
        self.leaf.weight.data.copy_(self.kept)
        result = self.leaf()
        self.leaf.weight.data.zero_()
        return result


def wrapped(layer: MultiLoraLinear, kind: str) -> None:
    getattr(layer, kind)["default"] = _Wrapper(getattr(layer, kind)["default"])


def hooked(layer: MultiLoraLinear, kind: str) -> None:
    """As ZeRO-3 does, and accelerate's offloading."""
    leaf: AdapterWeight = getattr(layer, kind)["default"]
    kept = leaf.weight.detach().clone()
    leaf.weight.data.zero_()

    def gather(module: Any, _: Any) -> None:
        module.weight.data.copy_(kept)

    def free(module: Any, *_: Any) -> None:
        module.weight.data.zero_()

    leaf.register_forward_pre_hook(gather)
    leaf.register_forward_hook(free)


@pytest.mark.parametrize("take", [wrapped, hooked])
@pytest.mark.parametrize("dropout", [0.0, 1e-9], ids=["fused", "added"])
def test_weights_that_are_there_only_in_the_leaf_s_call_are_used(
    take: Callable[[MultiLoraLinear, str], None], dropout: float
) -> None:
    def layer() -> MultiLoraLinear:
        torch.manual_seed(0)
        return MultiLoraLinear(
            nn.Linear(8, 6), "default", r=2, num_loras=3, init_weights=False, lora_dropout=dropout
        ).requires_grad_()

    plain, other = layer(), layer()
    for kind in other.adapter_layer_names:
        take(other, kind)
    x = torch.randn(4, 8)
    results = []
    for each in (plain, other):
        y = each(x)
        y.square().sum().backward()
        results.append((y, *(p.grad for name, p in each.named_parameters() if "multilora" in name)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    assert len(results[0]) == 4


def test_tensors_from_before_the_leaves_are_not_loaded_as_a_saturating_scale_s(make_llama: Make) -> None:
    """A state dict says nothing of its configuration, but its names say that it is of the first version."""
    old = without_leaves(get_peft_model_state_dict(random_adapter(make_llama())))
    model = get_peft_model(make_llama(), MultiLoraConfig(r=4))
    with pytest.raises(InputError, match="from before the scale had a function, so it is linear with constant 1"):
        set_peft_model_state_dict(model, old)
