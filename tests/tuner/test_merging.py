"""Merging: exact unmerge on request, and refusals where W + ΔW in the weight would not be the adapted layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.bitnet import AutoBitLinear

from multilora import InputError, MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]
D_IN, D_OUT = 12, 9


def make_layer(base: nn.Module, **arguments: Any) -> MultiLoraLinear:
    torch.manual_seed(0)
    return MultiLoraLinear(base, "default", **({"r": 2, "num_loras": 3, "init_weights": False} | arguments))


def config(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 2, "init_weights": False} | arguments))


def base_weights(model: nn.Module) -> list[Tensor]:
    layers = [module for module in model.modules() if isinstance(module, MultiLoraLinear)]
    assert layers
    return [layer.get_base_layer().weight.detach().clone() for layer in layers]


def same(ours: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


# Exact unmerge ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exact_unmerge", "comes_back"), [(False, False), (True, True), ("cpu", True)])
def test_a_half_precision_base_comes_back_to_the_bit_on_request(
    make_llama: Make, exact_unmerge: Any, comes_back: bool
) -> None:
    model = get_peft_model(make_llama().bfloat16(), config(exact_unmerge=exact_unmerge))
    before = base_weights(model)
    for _ in range(3):
        model.merge_adapter()
        assert not same(base_weights(model), before)
        model.unmerge_adapter()
    assert same(base_weights(model), before) is comes_back
    layers = [module for module in model.modules() if isinstance(module, MultiLoraLinear)]
    assert all(layer._kept_weight is None for layer in layers)  # nothing is kept while nothing is merged


def test_what_becomes_of_the_adapters_meanwhile_does_not_matter(make_llama: Make) -> None:
    model = get_peft_model(make_llama().bfloat16(), config(exact_unmerge=True))
    model.add_adapter("other", config())
    before = base_weights(model)
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    for name, parameter in model.named_parameters():
        if "multilora_B" in name:
            parameter.data.mul_(2)
    model.unmerge_adapter()
    assert same(base_weights(model), before)


def test_keeping_on_the_device_copies_nothing() -> None:
    layer = make_layer(nn.Linear(D_IN, D_OUT).bfloat16(), exact_unmerge=True)
    place = layer.base_layer.weight.data_ptr()
    layer.merge()
    assert layer.base_layer.weight.data_ptr() != place
    layer.unmerge()
    assert layer.base_layer.weight.data_ptr() == place


def test_a_model_cast_while_merged_gets_its_weight_in_the_new_dtype() -> None:
    layer = make_layer(nn.Linear(D_IN, D_OUT).bfloat16(), exact_unmerge=True)
    before = layer.base_layer.weight.detach().clone()
    layer.merge()
    layer.float()
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, before.float())


def test_exact_unmerge_is_saved(make_llama: Make, tmp_path: Path) -> None:
    get_peft_model(make_llama(), config(exact_unmerge="cpu")).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path)
    layer = next(module for module in loaded.modules() if isinstance(module, MultiLoraLinear))
    assert layer.exact_unmerge == {"default": "cpu"}


def test_exact_unmerge_out_of_range() -> None:
    with pytest.raises(InputError, match="exact_unmerge must be one of True, False, 'cpu'; got 'disk'"):
        config(exact_unmerge="disk")


# Where the weight is no place for ΔW ------------------------------------------------------------------------------


def _int8() -> nn.Module:
    """A weight in 8 bits with a scale beside it, as a quantiser that PEFT does not know lays it out."""
    layer = nn.Linear(D_IN, D_OUT, bias=False)
    layer.weight = nn.Parameter(torch.randint(-9, 9, (D_OUT, D_IN), dtype=torch.int8), requires_grad=False)
    return layer


def _float8() -> nn.Module:
    layer = nn.Linear(D_IN, D_OUT, bias=False)
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return layer


class _Halved(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class _Router(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        return super().forward(input), input


REFUSED = {
    "weight_norm, as a parametrization": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D_IN, D_OUT)),
        "computes its weight",
    ),
    "weight_norm, as a hook": (lambda: nn.utils.weight_norm(nn.Linear(D_IN, D_OUT)), "computes its weight"),
    "spectral_norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(D_IN, D_OUT)),
        "computes its weight",
    ),
    "BitNet": (lambda: AutoBitLinear(D_IN, D_OUT, online_quant=True), r"does not compute x Wᵀ \+ b .*% off"),
    "int8": (_int8, "weight of dtype int8, which has scales beside it"),
    "float8": (_float8, "weight of dtype float8_e4m3fn"),
    "another forward": (lambda: _Halved(D_IN, D_OUT), r"is 50% off\)\. Keep the adapter unmerged"),
    "a tuple": (lambda: _Router(D_IN, D_OUT), "does not compute"),
    "meta": (lambda: nn.Linear(D_IN, D_OUT, device="meta"), "on the meta device"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_that_does_not_compute_with_its_weight_is_refused(case: str, safe_merge: bool) -> None:
    make, match = REFUSED[case]
    torch.manual_seed(0)
    layer = make_layer(make())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(InputError, match=rf"cannot merge 'default': .*{match}"):
        layer.merge(safe_merge=safe_merge)
    assert not layer.merged
    after = layer.state_dict()
    assert all(after[name].is_meta or torch.equal(after[name], before[name]) for name in before)


def test_a_refusal_comes_before_any_layer_of_the_model_is_merged(make_llama: Make) -> None:
    base = make_llama()
    nn.utils.parametrizations.weight_norm(base.model.layers[1].mlp.down_proj)
    model = get_peft_model(base, config())
    before = base_weights(model)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(InputError, match=r"cannot merge into 'model\.layers\.1\.mlp\.down_proj': .*weight_norm"):
            merge()
    assert same(base_weights(model), before)
    assert not any(layer.merged for layer in model.modules() if isinstance(layer, MultiLoraLinear))


class _Same(nn.Linear):
    """Another class, and the same computation."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_class_that_computes_the_same_is_merged(dtype: torch.dtype) -> None:
    layer = make_layer(_Same(D_IN, D_OUT).to(dtype)).train()
    x = torch.randn(4, D_IN, dtype=dtype)
    adapted = layer(x)
    layer.merge(safe_merge=True)
    assert layer.base_layer.training  # it was tried in evaluation mode
    torch.testing.assert_close(layer(x), adapted, rtol=0.05, atol=0.05)


class _Remembers(nn.Linear):
    """It computes with the weight that it saw first."""

    def forward(self, input: Tensor) -> Tensor:
        self.first = getattr(self, "first", self.weight.detach().clone())
        return nn.functional.linear(input, self.first, self.bias)


def test_safe_merge_finds_a_layer_that_does_not_take_the_new_weight() -> None:
    layer = make_layer(_Remembers(D_IN, D_OUT), exact_unmerge=True)
    before = layer.base_layer.weight.detach().clone()
    with pytest.raises(InputError, match=r"with the merged weight the base layer is a .*_Remembers and does not"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
    assert not layer.merged
    assert layer._kept_weight is None


# Weights of two modules -------------------------------------------------------------------------------------------


def test_a_weight_that_two_modules_share_is_refused(make_llama: Make) -> None:
    base = make_llama()
    base.model.layers[1].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    model = get_peft_model(base, config())
    before = base_weights(model)
    with pytest.raises(
        InputError, match=r"'model\.layers\.[01]\.mlp\.up_proj' and 'model\.layers\.[01]\.mlp\.up_proj.*' share one"
    ):
        model.merge_adapter()
    assert same(base_weights(model), before)


def test_a_module_that_is_called_twice_merges_right(make_llama: Make) -> None:
    base = make_llama()
    base.model.layers[1] = base.model.layers[0]
    model = get_peft_model(base, config()).eval()
    tokens = torch.arange(1, 12).unsqueeze(0)
    with torch.no_grad():
        adapted = model(tokens, use_cache=False).logits
        model.merge_adapter()
        torch.testing.assert_close(model(tokens, use_cache=False).logits, adapted, rtol=1e-4, atol=1e-5)
