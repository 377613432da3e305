"""What "all-linear" means: the layers that can be adapted, exactly; what it leaves out is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    Wav2Vec2Config,
    Wav2Vec2ForXVector,
    WavLMConfig,
    WavLMModel,
)

from multilora import InputError, MultiLoraConfig
from multilora.tuner import linear
from multilora.tuner.linear import MultiLoraLinear, can_adapt
from multilora.tuner.targets import exact_target_modules, expand_all_linear, linear_layer_names

Make = Callable[..., PreTrainedModel]
SPEECH = {
    "vocab_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": (4, 4),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "tdnn_dim": (8, 8),
    "tdnn_kernel": (3, 1),
    "tdnn_dilation": (1, 1),
    "xvector_output_dim": 8,
    "layerdrop": 0.0,
}


def adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, MultiLoraLinear)]


class Router(nn.Linear):
    """As Llama 4's and Phi-MoE's: a linear layer by its class, with another result."""

    def forward(self, input: torch.Tensor) -> Any:
        return super().forward(input).topk(1), input


class Grouped(nn.Linear):
    """As DeepSeek-V4's: its rows are groups."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.bmm(input.view(-1, 2, 2), self.weight.view(2, 2, 2))


class Scaled(nn.Linear):
    """An own forward that is a linear layer's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Packed(nn.Module):
    """As a quantiser's linear layer: no `nn.Linear`, no floating weight."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.register_buffer("qweight", torch.ones(d_out, d_in, dtype=torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.qweight.to(x.dtype).t()


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(4, 4)
        self.router = Router(4, 4)
        self.grouped = Grouped(4, 4)
        self.scaled = Scaled(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.packed = Packed(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.packed(self.scaled(self.plain(x)))


@pytest.mark.filterwarnings("ignore:.*of the model's weights are in parameters")
def test_all_linear_leaves_out_what_cannot_be_adapted_and_names_it_once() -> None:
    with pytest.warns(UserWarning, match="leaves out 4 layers that cannot be adapted") as caught:
        model = get_peft_model(Odd(), MultiLoraConfig(r=1, num_loras=2))
    (message,) = [str(warning.message) for warning in caught if "leaves out" in str(warning.message)]
    for name in ("router", "grouped", "packed", "attention.out_proj"):
        assert f"{name} (1)" in message
    assert adapted(model) == ["base_model.model.plain", "base_model.model.scaled"]
    assert torch.isfinite(model.train()(torch.randn(3, 4))).all()


def test_what_is_excluded_is_not_spoken_of() -> None:
    left_out = ["router", "grouped", "packed", "out_proj", "attention"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_peft_model(Odd(), MultiLoraConfig(r=1, exclude_modules=left_out))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("router", r"Router, which does not map d_in numbers to d_out"),
        ("grouped", r"Grouped, which does not map d_in"),
        ("packed", r"Packed, a kind of linear layer that PEFT does not know"),
        ("attention.out_proj", r"MultiheadAttention reads its weight and never calls it"),
    ],
)
def test_named_they_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' is not supported: .*{reason}.*exclude_modules="):
        get_peft_model(Odd(), MultiLoraConfig(r=1, target_modules=["plain", name]))


def test_trying_a_forward_draws_nothing_and_works_without_weights() -> None:
    class Noisy(Scaled):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input * torch.rand_like(input))

    layers = [Router(4, 4), Grouped(4, 4), Scaled(4, 4), Noisy(4, 4, dtype=torch.bfloat16)]
    state = torch.get_rng_state()
    assert [can_adapt(layer) for layer in layers] == [False, False, True, True]
    assert [can_adapt(layer.to("meta")) for layer in layers] == [False, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_quantised_layers_that_peft_knows_are_found_as_linear_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own "all-linear" looks for nn.Linear, and misses GPTQ's, AWQ's, HQQ's layers."""

    class Backend:
        layer_type = "linear"

    resolve = linear.resolve_quantization_backend
    known = lambda layer, **_: Backend() if isinstance(layer, Packed) else resolve(layer)  # noqa: E731
    monkeypatch.setattr(linear, "resolve_quantization_backend", known)
    config = MultiLoraConfig(r=1)
    skipped = expand_all_linear(config, Odd())
    assert config.target_modules == {"plain", "scaled", "packed"}
    assert skipped.keys() == {"router", "grouped", "attention.out_proj"}


def test_layers_to_transform_alone(make_llama: Make, tmp_path: Path) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, layers_to_transform=[0], init_weights=False)).eval()
    assert {name.split(".")[4] for name in adapted(model)} == {"0"}
    assert len(adapted(model)) == 7
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(make_llama(), str(tmp_path)).eval()
    assert adapted(loaded) == adapted(model)
    batch = torch.arange(1, 8)[None]
    assert torch.equal(loaded(batch).logits, model(batch).logits)


def test_layers_to_transform_of_a_model_without_a_head() -> None:
    """Where the blocks' list is the model's own: "layers.0.…", which PEFT's rule for lists misses."""
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
    base = LlamaModel(LlamaConfig(vocab_size=8, **shape))
    model = get_peft_model(base, MultiLoraConfig(r=1, layers_to_transform=[1, 3], layers_pattern="layers"))
    assert {name.split(".")[3] for name in adapted(model)} == {"1", "3"}
    assert len(adapted(model)) == 14


def test_a_second_adapter_finds_the_same_layers(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, modules_to_save=["lm_head"]))
    first = linear_layer_names(model.base_model.model)
    model.add_adapter("other", MultiLoraConfig(r=2))
    assert linear_layer_names(model.base_model.model) == first
    assert all("other" in module.r for module in model.modules() if isinstance(module, MultiLoraLinear))
    assert len(adapted(model)) == 14


# Exactly the layers that were found ---------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(modules=st.sets(NAMES, min_size=1), data=st.data())
def test_names_mean_exactly_what_was_found(modules: set[str], data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(modules)), min_size=1))
    config = MultiLoraConfig(target_modules=exact_target_modules(sorted(wanted), modules - wanted))
    assert {name for name in modules if check_target_module_exists(config, name)} == wanted


def test_a_name_that_another_one_ends_in(tmp_path: Path) -> None:
    """wav2vec2's x-vector has a layer "feature_extractor" and a module "wav2vec2.feature_extractor"."""
    make = lambda: Wav2Vec2ForXVector(Wav2Vec2Config(**SPEECH)).eval()  # noqa: E731
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"tdnn\.\*\.kernel \(2\): TDNNLayer reads its weight and never calls it"):
        model = get_peft_model(make(), MultiLoraConfig(r=1, init_weights=False)).eval()
    names = [name.removeprefix("base_model.model.") for name in adapted(model)]
    assert {"feature_extractor", "projector", "wav2vec2.encoder.layers.1.attention.q_proj"} <= set(names)
    assert not any("kernel" in name for name in names)
    model.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(make(), str(tmp_path)).eval()
    assert adapted(loaded) == adapted(model)
    x = torch.randn(1, 200)
    assert torch.equal(loaded(x).logits, model(x).logits)


@pytest.mark.filterwarnings("ignore:.*of the model's weights are in parameters")
def test_layers_whose_weight_alone_is_read() -> None:
    config = WavLMConfig(**SPEECH)
    with pytest.warns(UserWarning, match=r"leaves out 8 layers .*attention\.q_proj \(2\).*: WavLMAttention reads"):
        model = get_peft_model(WavLMModel(config), MultiLoraConfig(r=1))
    assert not any(name.endswith("_proj") for name in adapted(model))
    with pytest.raises(InputError, match=r"v_proj' is not supported: .*WavLMAttention reads"):
        get_peft_model(WavLMModel(config), MultiLoraConfig(r=1, target_modules=["v_proj"]))
    # What an older version adapted and saved still loads.
    get_peft_model(WavLMModel(config), MultiLoraConfig(r=1, target_modules=["v_proj"], inference_mode=True))


@pytest.mark.filterwarnings("ignore:.*of the model's weights are in parameters")
def test_a_vision_model_with_an_attention_head() -> None:
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = SiglipVisionModel(SiglipVisionConfig(image_size=8, patch_size=4, **shape))
    with pytest.warns(UserWarning, match=r"leaves out 1 layers .*head\.attention\.out_proj"):
        model = get_peft_model(base, MultiLoraConfig(r=1, init_weights=False)).eval()
    pixels = torch.randn(1, 3, 8, 8)
    output = model(pixels).pooler_output
    torch.testing.assert_close(model.merge_and_unload()(pixels).pooler_output, output, rtol=1e-4, atol=1e-5)
