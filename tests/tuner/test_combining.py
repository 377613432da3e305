"""Combinations of adapters: the exact sum is exact, and the others are what PEFT makes of the exported LoRAs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapter_files import assert_same_logits, load, logits
from multilora import InputError, MultiLoraConfig, export_lora
from multilora.tuner.combining import COMBINATIONS, Combination, combine
from multilora.tuner.factors import Factors
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]


def config(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 2, "num_loras": 2, "lora_alpha": 3, "init_weights": False} | arguments))


def model_of(base: PreTrainedModel, **configs: MultiLoraConfig) -> PeftModel:
    """A model with these adapters, random ones, the first active."""
    torch.manual_seed(0)
    (first, settings), *others = copy.deepcopy(configs).items()  # PEFT writes the targets that it found into them
    model = get_peft_model(base, settings, adapter_name=first)
    for name, settings in others:
        model.add_adapter(name, settings)
    return model.eval()


def deltas(model: nn.Module, name: str) -> dict[str, Tensor]:
    """ΔW of an adapter in fp64, by layer."""
    return {
        place: layer.factors(name).to(torch.float64).delta()
        for place, layer in model.named_modules()
        if isinstance(layer, MultiLoraLinear) and layer.has_adapter(name)
    }


def weighted(model: nn.Module, weights: dict[str, float]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for name, weight in weights.items():
        for place, delta in deltas(model, name).items():
            total[place] = total[place] + weight * delta if place in total else weight * delta
    return total


def assert_same_deltas(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert ours.keys() == expected.keys()
    for place, delta in ours.items():
        assert (delta - expected[place]).norm() <= tolerance * expected[place].norm()


# The exact sum ----------------------------------------------------------------------------------------------------

DIFFERENT = {
    "one": config(num_loras=3, scaling_function="tanh", scaling_constant=2.0, rank_pattern={"q_proj": 1, "c_attn": 1}),
    "two": config(num_loras=1, scaling="scalar", lora_alpha=None),
    "three": config(scaling="none", exclude_modules=["down_proj", "c_fc"]),
}


@pytest.mark.parametrize("base", ["make_llama", "make_gpt2"])
def test_cat_is_the_weighted_sum_of_any_adapters(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    make: Make = request.getfixturevalue(base)
    model = model_of(make(), **DIFFERENT)
    weights = {"one": 0.7, "two": -1.5, "three": 2.0}
    model.add_weighted_adapter(list(weights), list(weights.values()), "sum", combination_type="cat")
    assert_same_deltas(deltas(model, "sum"), weighted(model, weights))
    assert model.active_adapters == ["one"]
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".sum" in name)
    assert any(p.requires_grad for name, p in model.named_parameters() if ".one" in name)

    # as any other adapter: saved, loaded, exported, merged
    model.set_adapter("sum")
    adapted = logits(model)
    model.save_pretrained(tmp_path / "saved", selected_adapters=["sum"])
    loaded = load(make(), tmp_path / "saved" / "sum")
    assert torch.equal(logits(loaded), adapted)
    export_lora(model, tmp_path / "lora")
    assert_same_logits(logits(load(make(), tmp_path / "lora")), adapted)
    assert_same_logits(logits(loaded.merge_and_unload()), adapted)
    model.set_adapter("two")
    model.delete_adapter("sum")
    assert "sum" not in model.peft_config


def test_one_adapter_with_weight_one_is_itself(make_llama: Make) -> None:
    model = model_of(make_llama(), one=config())
    before = logits(model)
    model.add_weighted_adapter(["one"], [1.0], "same", combination_type="cat")
    model.set_adapter("same")
    assert_same_logits(logits(model), before)


def test_a_half_precision_base_rounds_nothing(make_llama: Make) -> None:
    model = model_of(make_llama().bfloat16(), one=config(), two=config())
    model.add_weighted_adapter(["one", "two"], [0.3, 0.3], "sum", combination_type="cat")
    assert {p.dtype for name, p in model.named_parameters() if ".sum" in name} == {torch.float32}
    assert_same_deltas(deltas(model, "sum"), weighted(model, {"one": 0.3, "two": 0.3}))


# The best approximation, and PEFT's others --------------------------------------------------------------------------


def test_svd_is_the_best_approximation_of_the_sum(make_gpt2: Make) -> None:
    model = model_of(make_gpt2(), **DIFFERENT)
    model.add_weighted_adapter(["one", "two", "three"], [0.7, -1.5, 2.0], "sum", svd_rank=3)
    expected = {}
    for place, delta in weighted(model, {"one": 0.7, "two": -1.5, "three": 2.0}).items():
        U, S, Vh = torch.linalg.svd(delta)
        expected[place] = U[:, :3] @ S[:3].diag() @ Vh[:3]
    assert_same_deltas(deltas(model, "sum"), expected, 1e-5)
    assert {layer.r["sum"] for layer in model.modules() if isinstance(layer, MultiLoraLinear)} == {3}


def test_svd_rank_none_is_the_largest_total_rank(make_llama: Make) -> None:
    model = model_of(make_llama(), one=config(r=3), two=config(r=1, num_loras=5))
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    assert {layer.r["sum"] for layer in model.modules() if isinstance(layer, MultiLoraLinear)} == {6}


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_each_kind_is_what_peft_makes_of_the_exported_loras(
    make_llama: Make, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a total rank of 16, which an export does not pad."""
    settings = config(r=8, target_modules=["q_proj", "up_proj"])
    model = model_of(make_llama(), one=settings, two=settings)
    theirs = None
    for name in ("one", "two"):
        export_lora(model, tmp_path / name, adapter_name=name)
        if theirs is None:
            theirs = PeftModel.from_pretrained(make_llama(), tmp_path / name, adapter_name=name)
        else:
            theirs.load_adapter(tmp_path / name, name)
    assert theirs is not None
    # PEFT draws after its injection has drawn: numbers by shape instead
    monkeypatch.setattr(
        torch, "bernoulli", lambda p: (torch.rand(p.shape, generator=torch.Generator().manual_seed(3)) < p).to(p)
    )
    options = {} if kind in ("cat", "svd", "linear") else {"density": 0.4}
    for each in (model, theirs):
        each.add_weighted_adapter(["one", "two"], [0.8, -0.3], "sum", combination_type=kind, svd_rank=9, **options)
    places = dict(theirs.named_modules())
    expected = {place: places[place].get_delta_weight("sum").double() for place in deltas(model, "sum")}
    assert_same_deltas(deltas(model, "sum"), expected, 2e-5)


def test_combine_adds_nothing_to_the_ranks() -> None:
    torch.manual_seed(0)
    first, second = (Factors(torch.randn(4, 6), torch.randn(5, 4), torch.randn(2, 5), 1.5) for _ in range(2))
    for kind, rank in (("cat", 8), ("svd", 4), ("linear", 4), ("ties", 4), ("ties_svd", 4)):
        density = None if kind in ("cat", "svd", "linear") else 0.5
        assert combine([first, second], [1.0, 1.0], Combination(kind, density=density)).total_rank == rank


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"adapters": ["one", "x"]}, r"adapters: no such adapter 'x'; the model has 'one', 'two'"),
        ({"adapters": []}, "adapters must name at least one of 'one', 'two'"),
        ({"adapters": ["one", "one"]}, "'one' is named twice"),
        ({"weights": [1.0]}, "weights must have one number per adapter; got 1 for 2"),
        ({"weights": [1.0, float("nan")]}, "weights: that of 'two' must be a finite number; got nan"),
        ({"weights": [1.0, None]}, "weights: that of 'two' must be a finite number; got None"),
        (
            {"adapter_name": "two"},
            r"adapter_name='two': the model has an adapter of that name; delete_adapter\('two'\)",
        ),
        ({"adapter_name": "q_proj"}, "adapter_name 'q_proj' is also the name of a module"),
        ({"combination_type": "linaer"}, "combination_type must be one of .*got 'linaer'; nearest: 'linear'"),
        ({"combination_type": "linear"}, r"needs one total rank num_loras \* r; on .*'one' 4, 'two' 6\. Use 'cat'"),
        ({"combination_type": "ties", "density": 0.5}, r"Use 'cat' \(exact\), 'svd', or 'ties_svd'"),
        ({"combination_type": "ties_svd"}, r"density must be in \(0, 1\].*got None"),
        ({"combination_type": "dare_ties", "density": 1.5}, r"density must be in .*got 1\.5"),
        ({"combination_type": "ties_svd", "density": 1, "majority_sign_method": "most"}, "got 'most'"),
        ({"svd_rank": 0}, "svd_rank must be an integer of at least 1, or None; got 0"),
        ({"svd_clamp": 0.9}, r"svd_clamp=0\.9 is not available"),
    ],
)
def test_bad_arguments(make_llama: Make, changes: dict[str, Any], match: str) -> None:
    model = model_of(make_llama(num_hidden_layers=1), one=config(), two=config(r=3))
    before = model.state_dict().keys()
    arguments = {"adapters": ["one", "two"], "weights": [0.5, 0.5], "adapter_name": "new"} | changes
    with pytest.raises(InputError, match=match):
        model.add_weighted_adapter(**arguments)
    assert set(model.peft_config) == {"one", "two"}
    assert model.state_dict().keys() == before


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"modules_to_save": ["lm_head"]}, "'one' has modules_to_save=.*no ΔW"),
        ({"trainable_token_indices": [1, 2]}, r"'one' has trainable_token_indices=\[1, 2\]"),
        ({"bias": "all"}, "'one' has bias='all'"),
    ],
)
def test_what_is_no_delta_weight_cannot_be_summed(make_llama: Make, settings: dict[str, Any], match: str) -> None:
    model = model_of(make_llama(num_hidden_layers=1), one=config(**settings))
    with pytest.raises(InputError, match=match):
        model.add_weighted_adapter(["one"], [1.0], "new")


def test_a_lora_of_the_same_name_is_untouched(make_llama: Make) -> None:
    """The method is MultiLoRA's model's; PEFT's LoRA keeps its own."""
    model = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_weighted_adapter(["default"], [1.0], "twin", combination_type="cat")
    assert "twin" in model.peft_config
