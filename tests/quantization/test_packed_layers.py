"""Adapters on packed weights: what holds of a plain base layer holds here too, and the weights stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from multilora import export_lora
from multilora.base.loading import ModelSource
from multilora.recipe import ModelSection
from multilora.tuner.bnb import packed_bits, packed_tensors, prepare
from quantization.quantized import FOUR_BITS, KINDS, adapted, dense, grads, layers, load, logits, packed_bytes_of, same
from tiny_run import make_model

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
BOTH = pytest.mark.parametrize("kind", ["nf4-double-bf16", "int8-fp32"])


def sorts_for_evaluation() -> bool:
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


needs_sorting = pytest.mark.skipif(
    not sorts_for_evaluation(), reason="this CPU has no AVX512-BF16, so bitsandbytes sorts nothing"
)


# Step 0, gradients -------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_at_the_start_adapted_is_the_quantised_base(kind: str, folder: Path) -> None:
    base = load(folder, kind)
    before = [logits(base.train(training)) for training in (True, False)]
    model = adapted(base, init_weights=True)
    assert all(packed_bits(layer.base_layer) == KINDS[kind][0]["bits"] for layer in layers(model).values())
    for training, wanted in zip((True, False), before, strict=True):
        assert torch.equal(logits(model.train(training)), wanted)


@EVERY_KIND
def test_gradients_are_those_of_the_dequantised_layers(kind: str, folder: Path) -> None:
    dtype = KINDS[kind][1]
    base = load(folder, kind)
    plain = adapted(dense(folder, base, dtype))
    model = adapted(base)
    assert torch.allclose(logits(model.train()), logits(plain.train()), atol=1e-5 if dtype is torch.float32 else 0.1)
    found, wanted = grads(model), grads(plain)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient.dtype is torch.float32
        assert float((gradient - wanted[name]).norm() / wanted[name].norm()) < (
            1e-4 if dtype is torch.float32 else 0.05
        ), name


@EVERY_KIND
def test_a_step_moves_every_part_and_no_base_weight(kind: str, folder: Path) -> None:
    model = adapted(load(folder, kind))
    packed = packed_bytes_of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    grads(model)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), name
    assert same(packed, packed_bytes_of(model))


# Evaluation changes nothing -------------------------------------------------------------------------------------------


@EVERY_KIND
def test_evaluation_changes_neither_weights_nor_gradients(kind: str, folder: Path) -> None:
    model = adapted(load(folder, kind))
    before, packed = grads(model), packed_bytes_of(model)
    logits(model.eval())
    with model.disable_adapter():
        logits(model)
    assert same(packed, packed_bytes_of(model))
    after = grads(model)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_evaluation_computes_as_training_does(kind: str, folder: Path) -> None:
    model = adapted(load(folder, kind))
    assert torch.equal(logits(model.train()), logits(model.eval()))


@needs_sorting
@pytest.mark.parametrize("kind", FOUR_BITS)
def test_weights_sorted_before_are_put_in_order(kind: str, tmp_path: Path) -> None:
    # Scales were rounded to bf16 (8 bits) by then, and quantised anew with double quantisation.
    folder = make_model(tmp_path / "even", hidden_size=64, intermediate_size=128)
    base = load(folder, kind)
    exact = dense(folder, base, torch.float32)
    for module in base.modules():
        if packed_bits(module):
            module.support_avx512bf16_for_cpu = True
    logits(base.eval())
    assert base.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu
    model = adapted(base)
    for name, layer in layers(model).items():
        wanted = exact.get_submodule(name.removeprefix("base_model.model.")).weight
        error = layer.get_base_weight().float() - wanted
        assert float((error.norm() / wanted.norm()).detach()) < 2**-7, name
    packed = packed_bytes_of(model)
    assert all(gradient.abs().max() > 0 for gradient in grads(model).values())
    logits(model.eval())
    assert same(packed, packed_bytes_of(model))


@needs_sorting
def test_layers_without_an_adapter_pass_gradients_on_after_evaluation(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "even", hidden_size=64, intermediate_size=128)
    base = load(folder)
    for module in base.modules():
        if packed_bits(module):
            module.support_avx512bf16_for_cpu = True  # as transformers loads it
    model = adapted(base, target_modules=["q_proj"], layers_to_transform=[0])
    before = grads(model)
    logits(model.eval())
    after = grads(model)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


# Several adapters, files --------------------------------------------------------------------------------------------


@BOTH
def test_adapters_are_switched_and_add_up(kind: str, folder: Path) -> None:
    base = load(folder, kind)
    plain = adapted(dense(folder, base, KINDS[kind][1]), "one", "two").train()
    model = adapted(base, "one", "two").train()
    for chosen in ("one", "two", ["one", "two"]):
        model.base_model.set_adapter(chosen)
        plain.base_model.set_adapter(chosen)
        tolerance = 1e-4 if KINDS[kind][1] is torch.float32 else 0.2
        assert torch.allclose(logits(model), logits(plain), atol=tolerance)
    with model.disable_adapter(), plain.disable_adapter():
        assert torch.allclose(logits(model), logits(plain), atol=tolerance)


@BOTH
def test_a_saved_adapter_comes_back(kind: str, folder: Path, tmp_path: Path) -> None:
    model = adapted(load(folder, kind)).eval()
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    again = PeftModel.from_pretrained(load(folder, kind), str(tmp_path)).eval()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", ["nf4-fp32", "int8-fp32"])
def test_its_export_is_a_lora_on_the_same_base(kind: str, folder: Path, tmp_path: Path) -> None:
    model = adapted(load(folder, kind)).eval()
    model.save_pretrained(str(tmp_path / "own"), save_embedding_layers=False)
    export_lora(tmp_path / "own", tmp_path / "lora")
    base = load(folder, kind)
    exported = PeftModel.from_pretrained(base, str(tmp_path / "lora")).train()
    assert type(exported.base_model.model.model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.bnb"
    wanted = logits(model.train())
    assert torch.allclose(logits(exported), wanted, atol=1e-5 * float(wanted.abs().max()))


@BOTH
def test_unloading_leaves_the_base(kind: str, folder: Path) -> None:
    base = load(folder, kind).eval()
    before, packed = logits(base), packed_bytes_of(base)
    model = adapted(base).eval()
    logits(model)
    unloaded = model.unload()
    assert not layers(unloaded)
    assert same(packed, packed_bytes_of(unloaded))
    assert torch.equal(logits(unloaded), before)


def test_dropout_and_checkpointing_work_on_packed_weights(folder: Path) -> None:
    model = adapted(load(folder), lora_dropout=0.5)
    torch.manual_seed(0)
    plain = grads(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(0)
    recomputed = grads(model)
    assert all(torch.allclose(recomputed[name], gradient, atol=1e-6) for name, gradient in plain.items())


# A layer alone -----------------------------------------------------------------------------------------------------


def four_bit_layer(d_in: int, d_out: int, **options: Any) -> Any:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(d_in, d_out, compute_dtype=torch.float32, quant_type="nf4", **options)
    return layer.to("cpu")


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 7), (7, 64), (65, 33), (172, 48)], ids=str)
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "double"])
def test_any_shape_is_taken(shape: tuple[int, int], nested: bool) -> None:
    from bitsandbytes import functional

    layer = four_bit_layer(*shape, compress_statistics=nested)
    wrapped = adapted(nn.Sequential(layer), target_modules=["0"], r=1, num_loras=1, task_type=None)
    with torch.compiler.set_stance("force_eager"):  # bitsandbytes compiles what it does with odd shapes
        W = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    x = torch.randn(4, shape[0])
    adapter = layers(wrapped)["base_model.model.0"]
    wanted = x @ W.t() + layer.bias + x @ adapter.get_delta_weight("default").t()
    for training in (True, False, True):
        with torch.compiler.set_stance("force_eager"):
            found = wrapped.train(training)(x)
        assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.detach().abs().max()))


def test_a_model_without_packed_weights_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    prepare(model)
    assert "support_avx512bf16_for_cpu" not in vars(model[0])
    assert packed_bits(model[0]) is None
    assert packed_tensors(model) == []


def test_a_quantised_checkpoint_is_loaded_as_it_is_stored(folder: Path, tmp_path: Path) -> None:
    load(folder, "nf4-double-bf16").save_pretrained(tmp_path)
    stored = ModelSource.find(ModelSection.model_validate({"path": str(tmp_path)})).model(torch.bfloat16)
    assert torch.equal(logits(stored.eval()), logits(load(folder, "nf4-double-bf16").eval()))
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in stored.modules())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).is_quantized


def test_what_is_skipped_is_not_packed(folder: Path) -> None:
    model = load(folder, skip_modules=["down_proj", "model.layers.0"])
    packed = [name for name, module in model.named_modules() if packed_bits(module)]
    assert packed
    assert all(name.startswith("model.layers.1.") and not name.endswith("down_proj") for name in packed)
