"""What an adapter does not reach is said: experts at the injection, layers never called after the first forward."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, ViTConfig, ViTModel

from multilora import MultiLoraConfig
from multilora.tuner.coverage import unreached_parameters

Make = Callable[..., PreTrainedModel]
SAID = "of the model's weights are in parameters"
NEVER = "were not called in the first training forward"


def mixtral() -> PreTrainedModel:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=32, num_local_experts=4, num_key_value_heads=1, **shape)
    return MixtralForCausalLM(config)


def messages(action: Callable[[], Any], *, part: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in caught if part in str(warning.message)]


# Parameters out of reach --------------------------------------------------------------------------------------------


def test_experts_are_named_with_their_share() -> None:
    model = mixtral()
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if "experts" in name)
    (message,) = messages(lambda: get_peft_model(model, MultiLoraConfig(r=1)), part=SAID)
    assert message.startswith(f"{experts / total:.0%} of the model's weights")
    assert "model.layers.*.mlp.experts.gate_up_proj (2 of 4 × 48 × 16, " in message
    assert "exclude_modules=['experts']" in message


@pytest.mark.parametrize("arguments", [{"exclude_modules": ["experts"]}, {"inference_mode": True}])
def test_nothing_is_said_where_it_is_meant_or_only_loaded(arguments: dict[str, Any]) -> None:
    assert not messages(lambda: get_peft_model(mixtral(), MultiLoraConfig(r=1, **arguments)), part=SAID)


def test_the_share_is_of_the_base_model_whatever_was_added() -> None:
    model = mixtral()
    before = unreached_parameters(model)
    adapted = get_peft_model(model, MultiLoraConfig(r=8, exclude_modules=["experts"]))
    assert unreached_parameters(adapted.base_model.model) == before


def test_convolutions_positions_and_dense_models_are_not_spoken_of(make_llama: Make) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(image_size=32, patch_size=4, **shape))
    assert any(parameter.ndim == 3 and parameter.shape[1] > 1 for parameter in vit.parameters())
    for model in (vit, make_llama(), nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(4, 4))):
        assert unreached_parameters(model) == []


# Layers that are never called ---------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Calls `called`, reads the weight of `read`, and calls `sometimes` for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.sometimes = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            x = self.sometimes(x)
        return self.called(x) @ self.read.weight


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("whole", [True, False], ids=["get_peft_model", "inject_adapter_in_model"])
def test_layers_that_the_first_training_forward_does_not_call_are_named_once(whole: bool) -> None:
    config = MultiLoraConfig(r=1)
    model: nn.Module = get_peft_model(Reader(), config) if whole else inject_adapter_in_model(config, Reader())
    x = torch.randn(2, 4)
    assert not messages(lambda: model.eval()(x), part=NEVER)
    with torch.no_grad():
        assert not messages(lambda: model.train()(x), part=NEVER)
    (message,) = messages(lambda: model(x), part=NEVER)
    assert message.startswith("2 adapted layers were not called")
    assert "read (1 of 1), sometimes (1 of 1)" in message
    assert hooks(model) == 0  # nothing is left that costs
    assert not messages(lambda: model(x), part=NEVER)


def test_the_named_ones_have_no_gradient_and_the_others_have() -> None:
    model = get_peft_model(Reader(), MultiLoraConfig(r=1, init_weights=False)).train()
    messages(lambda: model(torch.randn(4, 4)).sum().backward(), part=NEVER)
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.grad is not None and "lora_" in name}
    assert trained == {"called", "sometimes"}


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_a_model_whose_layers_are_all_called_says_nothing(make_llama: Make, checkpointing: bool | None) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2)).train()
    if checkpointing is not None:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    batch = torch.arange(1, 8)[None]
    kept = hooks(model)

    def step() -> None:
        model(batch, labels=batch).loss.backward()

    assert not messages(step, part=NEVER)
    assert hooks(model) == kept - 1


def test_copies_watch_by_themselves() -> None:
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert len(messages(lambda copied=copied: copied(torch.randn(2, 4)), part=NEVER)) == 1
        assert hooks(copied) == 0


@pytest.mark.full
def test_a_compiled_model_is_not_watched() -> None:
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert not messages(lambda: compiled(torch.randn(2, 4)), part=NEVER)
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    model.base_model.model.called = torch.compile(model.base_model.model.called, backend="eager")
    assert not messages(lambda: model(torch.randn(2, 4)), part=NEVER)
    assert hooks(model) == 0


def test_a_forward_that_fails_is_followed_by_one_that_tells() -> None:
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    with pytest.raises(ValueError, match="d_in = 4"):
        model(torch.randn(2, 5))
    assert len(messages(lambda: model(torch.randn(2, 4)), part=NEVER)) == 1
    assert hooks(model) == 0


def test_frozen_disabled_and_removed_adapters_are_not_watched() -> None:
    x = torch.randn(2, 4)
    loaded = get_peft_model(Reader(), MultiLoraConfig(r=1, inference_mode=True)).train()
    assert hooks(loaded) == 0
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    assert hooks(model.unload()) == 0
    model = get_peft_model(Reader(), MultiLoraConfig(r=1)).train()
    with model.disable_adapter():
        assert not messages(lambda: model(x), part=NEVER)


def test_blocks_left_out_at_random_are_not_named() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"layerdrop": 0.1})()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.read = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x) @ self.read.weight

    config = MultiLoraConfig(r=1, target_modules=["0", "1", "2", "read"])
    model = inject_adapter_in_model(config, Dropping()).train()
    (message,) = messages(lambda: model(torch.randn(2, 4)), part=NEVER)
    assert message.startswith("1 adapted layers")


# A scale in half precision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "dtype", "said"),
    [
        ("gaussian", torch.bfloat16, 1),
        ("gaussian", torch.float16, 1),
        ("gaussian", torch.float32, 0),
        (True, torch.bfloat16, 0),
    ],
)
def test_a_linear_scale_in_half_precision_is_said_once(
    make_llama: Make, start: Any, dtype: torch.dtype, said: int
) -> None:
    """As TRL's trainers make it: they cast what is trained on a base in 4 or 8 bits."""
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, num_loras=2, init_weights=start)).train()
    for name, parameter in model.named_parameters():
        if "multilora_" in name:
            parameter.data = parameter.data.to(dtype)
    ids = torch.ones(1, 4, dtype=torch.long)
    found = messages(lambda: [model(ids) for _ in range(2)], part="the learned scale of 14 layers")
    assert len(found) == said
