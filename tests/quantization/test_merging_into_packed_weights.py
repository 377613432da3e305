"""Merging into packed weights: merged is adapted within the error that is told before, and unmerging is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from multilora import InputError
from multilora.base.quantization import requantization_errors
from multilora.tuner.bnb import packed_bits
from quantization.quantized import KINDS, adapted, grads, layers, load, logits, packed_bytes_of, same

pytestmark = pytest.mark.filterwarnings("ignore:merging into")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
AFTER = pytest.mark.parametrize("after", ["nothing", "training", "evaluation"])


def after_a_forward(model: Any, after: str) -> Any:
    if after == "training":
        grads(model)
    elif after == "evaluation":
        logits(model.eval())
    return model.eval()


@AFTER
@EVERY_KIND
def test_the_error_told_is_the_error_made(kind: str, after: str, folder: Path) -> None:
    model = after_a_forward(adapted(load(folder, kind), "one", "two"), after)
    model.base_model.set_adapter(["one", "two"])
    found = layers(model)
    before = {name: layer.get_base_weight().clone() for name, layer in found.items()}
    packed = packed_bytes_of(model)
    told = requantization_errors(model)
    assert same(packed, packed_bytes_of(model))
    assert [f"base_model.model.{error.name}" for error in told] == [f"{name}.weight" for name in found]
    model.merge_adapter(["one", "two"])
    for error, (name, layer) in zip(told, found.items(), strict=True):
        delta = layer.get_delta_weight("one") + layer.get_delta_weight("two")
        exact = before[name].double() + delta.double()
        difference = layer.get_base_weight().double() - exact
        assert float(difference.detach().abs().max()) == pytest.approx(error.largest, rel=1e-4)
        assert float(difference.norm() / exact.norm()) == pytest.approx(error.relative, rel=1e-4)
        assert float(difference.norm() / delta.norm()) == pytest.approx(error.relative_to_delta, rel=1e-4)
        assert 0 < error.relative < (0.01 if packed_bits(layer.base_layer) == 8 else 0.2)


@AFTER
@pytest.mark.parametrize("kind", ["nf4-fp32", "nf4-double-bf16", "int8-fp32"])
def test_merged_is_adapted_within_that_error(kind: str, after: str, folder: Path) -> None:
    # In training mode: an 8-bit layer that evaluates rounds its input too.
    model = after_a_forward(adapted(load(folder, kind)), after).train()
    inputs: dict[str, Any] = {}
    found = layers(model)
    hooks = [
        layer.register_forward_hook(lambda _, args, out, name=name: inputs.update({name: (args[0], out)}))
        for name, layer in found.items()
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    errors = {f"base_model.model.{error.name}": error for error in requantization_errors(model)}
    exact = {n: (layer.get_base_weight().float() + layer.get_delta_weight("default")) for n, layer in found.items()}
    model.merge_adapter()
    for name, layer in found.items():
        x, adapted_output = inputs[name]
        with torch.no_grad():
            difference = (layer(x) - adapted_output).float()
        norm = x.float().norm(dim=-1)
        bound = errors[f"{name}.weight"].relative * exact[name].norm() * norm
        rounding = 0.0 if x.dtype is torch.float32 else 2**-7 * (exact[name].norm() * norm)
        assert (difference.norm(dim=-1) <= bound + rounding + 1e-4).all(), name
        assert difference.abs().max() > 0


@AFTER
@EVERY_KIND
def test_unmerging_gives_the_weights_back_to_the_bit(kind: str, after: str, folder: Path) -> None:
    model = after_a_forward(adapted(load(folder, kind), "one", "two"), after)
    packed, before = packed_bytes_of(model), logits(model)
    model.merge_adapter(["one"])
    merged = logits(model)
    model.merge_adapter(["two"])
    assert not torch.equal(merged, before)
    assert not torch.equal(merged, logits(model))
    model.unmerge_adapter()
    model.base_model.model.model.to("cpu")  # what is not marked as packed would be packed again
    assert same(packed, packed_bytes_of(model))
    assert torch.equal(logits(model), before)
    assert all(gradient.isfinite().all() for gradient in grads(model).values())


def test_disabling_a_merged_adapter_shows_the_base(folder: Path) -> None:
    base = load(folder).eval()
    before = logits(base)
    model = adapted(base).eval()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), before)


@AFTER
@pytest.mark.parametrize("safe", [False, True], ids=["plain", "safe"])
@pytest.mark.parametrize("kind", ["nf4-double-bf16", "int8-fp32"])
def test_merged_and_unloaded_is_saved_and_loaded(
    kind: str, safe: bool, after: str, folder: Path, tmp_path: Path
) -> None:
    model = after_a_forward(adapted(load(folder, kind)), after)
    model.merge_adapter()
    merged = logits(model)
    model.unmerge_adapter()
    unloaded = model.merge_and_unload(safe_merge=safe).eval()
    assert not layers(unloaded)
    assert torch.equal(logits(unloaded), merged)
    unloaded.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=KINDS[kind][1])
    for module in again.modules():
        if packed_bits(module) == 4:
            module.support_avx512bf16_for_cpu = False
    assert torch.equal(logits(again.eval()), merged)


@EVERY_KIND
def test_a_broken_adapter_is_not_merged_safely(kind: str, folder: Path) -> None:
    model = adapted(load(folder, kind))
    packed = packed_bytes_of(model)
    layer = layers(model)["base_model.model.model.layers.0.mlp.up_proj"]
    with torch.no_grad():
        layer.multilora_B["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        layer.merge(safe_merge=True)
    assert not layer.merged
    assert same(packed, packed_bytes_of(model))


def test_merging_says_that_it_loses(folder: Path) -> None:
    model = adapted(load(folder))
    with pytest.warns(UserWarning, match=r"4-bit weights .*requantization_errors"):
        model.merge_adapter()


def test_a_small_delta_is_lost_in_4_bits_and_kept_in_8(folder: Path) -> None:
    for kind, most_is_kept in (("nf4-fp32", False), ("int8-fp32", True)):
        model = adapted(load(folder, kind))
        for layer in layers(model).values():
            ratio = layer.get_base_weight().norm() / layer.get_delta_weight("default").norm()
            with torch.no_grad():
                layer.multilora_scaling["default"].weight.mul_(0.05 * ratio)
        for error in requantization_errors(model):
            assert (error.relative_to_delta < 0.5) is most_is_kept, error  # type: ignore[operator]


def test_the_error_is_told_before_merging_and_of_packed_weights_alone(folder: Path) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(folder))
    assert requantization_errors(model) == ()
    model = adapted(load(folder), "one", "two")
    assert len(requantization_errors(model, ["two"])) == 14
    model.merge_adapter()
    with pytest.raises(InputError, match=r"\['one'\] are merged"):
        requantization_errors(model)


def test_at_the_start_merging_costs_nothing(folder: Path) -> None:
    for error in requantization_errors(adapted(load(folder), init_weights=True)):
        assert error.largest == error.relative == 0
        assert error.relative_to_delta is None


@pytest.mark.parametrize("kind", ["nf4-fp32", "fp4-fp32", "int8-fp32"])
def test_merged_into_dequantised_weights_it_is_the_adapted_model(kind: str, folder: Path, tmp_path: Path) -> None:
    model = adapted(load(folder, kind))
    wanted = logits(model.train())
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    base = load(folder, kind).dequantize(dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not any(packed_bits(module) for module in again.modules())
    assert torch.allclose(logits(again), wanted, atol=1e-5 * float(wanted.abs().max()))
