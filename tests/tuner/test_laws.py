"""Laws of a whole adapted model, on Llama- and GPT-2-shaped models with adapters that are large enough to matter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from multilora import MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]
SCALINGS = ["vector", "scalar", "none"]
TOLERANCE = 1e-5  # relative to max |logit|


@pytest.fixture(params=["llama", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Make:
    return request.getfixturevalue(f"make_{request.param}")


def tokens(model: PreTrainedModel) -> Tensor:
    return torch.randint(1, model.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(tokens(model), use_cache=False).logits


def large_adapter(base: PreTrainedModel, **arguments: Any) -> PeftModel:
    """A model whose adapter matters: ‖ΔW‖/‖W‖ ≥ 0.1 in every layer, and logits far from the base model's."""
    before = logits(base)
    torch.manual_seed(1)
    arguments = {"r": 4, "lora_alpha": 6, "init_weights": False} | arguments
    model = get_peft_model(base, MultiLoraConfig(**arguments)).eval()
    for module in model.modules():
        if isinstance(module, MultiLoraLinear):
            for name in module.multilora_A:
                assert module.get_delta_weight(name).norm() >= 0.1 * module.get_base_layer().weight.norm()
    after = logits(model)
    assert (after - before).abs().max() >= 100 * TOLERANCE * after.abs().max()
    return model


def assert_same_logits(ours: Tensor, expected: Tensor) -> None:
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scaling": "scalar", "num_loras": 5},
        {"init_weights": "kaiming_uniform", "num_loras": 1},
        {"init_weights": "orthogonal"},
        {"scaling": "none", "init_weights": "lora"},
        {"lora_dropout": 0.3, "lora_alpha": 16},
    ],
)
def test_step_zero_is_the_base_model_bit_for_bit(
    make_model: Make, dtype: torch.dtype, arguments: dict[str, Any]
) -> None:
    base = make_model().to(dtype)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # GPT-2 drops out by itself
    before = logits(base)
    model = get_peft_model(base, MultiLoraConfig(r=4, **arguments))
    assert torch.equal(logits(model.train()), before)
    assert torch.equal(logits(model.eval()), before)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_merged_model_is_the_adapted_model(make_model: Make, scaling: str) -> None:
    model = large_adapter(make_model(), scaling=scaling)
    adapted, base = logits(model), make_model()
    model.merge_adapter(safe_merge=True)
    assert_same_logits(logits(model), adapted)
    model.unmerge_adapter()
    assert_same_logits(logits(model), adapted)
    with model.disable_adapter():
        assert_same_logits(logits(model), logits(base))
    merged = model.merge_and_unload()
    assert_same_logits(logits(merged), adapted)
    assert not any(isinstance(module, MultiLoraLinear) for module in merged.modules())
    assert merged.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load_is_exact(make_model: Make, scaling: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model = large_adapter(make_model(), scaling=scaling, rank_pattern={"0.*": 2}, alpha_pattern={"1.*": 3})
    model.save_pretrained(str(tmp_path))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    kinds = {"multilora_A.weight", "multilora_B.weight"}
    kinds |= {"multilora_scaling.weight"} if scaling != "none" else set()
    assert {".".join(key.split(".")[-2:]) for key in stored} == kinds
    loaded = PeftModel.from_pretrained(make_model(), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(logits(loaded), logits(model))
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    alphas = [
        {m.lora_alpha["default"] / m.r["default"] for m in x.modules() if isinstance(m, MultiLoraLinear)}
        for x in (model, loaded)
    ]
    assert alphas[0] == alphas[1]
    assert len(alphas[0]) > 1


def test_lora_alpha_none_is_each_module_s_own_r(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=4, rank_pattern={"q_proj": 2}))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MultiLoraLinear)}
    assert {m.r["default"] for m in layers.values()} == {2, 4}
    assert {m.alpha_over_r["default"] for m in layers.values()} == {1.0}


def test_one_module_without_scale_is_peft_s_lora(make_model: Make) -> None:
    """Values, gradients and three steps of AdamW: with the same A and B the two stay the same model."""
    torch.manual_seed(2)
    ours = get_peft_model(
        make_model(), MultiLoraConfig(r=4, num_loras=1, lora_alpha=8, scaling="none", init_weights="lora")
    ).eval()
    theirs = get_peft_model(make_model(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")).eval()
    counterparts = dict(theirs.named_parameters())
    pairs = []
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            other = counterparts[name.replace("multilora_", "lora_")]
            assert other.shape == parameter.shape
            if "lora_B" in name:
                assert (parameter == 0).all()
                assert (other == 0).all()
            other.data.copy_(parameter.data)
            pairs.append((parameter, other))
    assert len(pairs) == len([p for p in theirs.parameters() if p.requires_grad])
    optimizers = [torch.optim.AdamW([pair[i] for pair in pairs], lr=0.05) for i in (0, 1)]
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            batch = tokens(model)
            model(batch, labels=batch).loss.backward()
        for mine, other in pairs:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
        for mine, other in pairs:
            other.data.copy_(mine.data)  # AdamW's first steps turn rounding differences of tiny gradients into ±lr
    assert_same_logits(logits(ours), logits(theirs))
    assert (logits(ours) - logits(make_model())).abs().max() > 100 * TOLERANCE * logits(ours).abs().max()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    batch = tokens(model)
    model.zero_grad()
    model(batch, labels=batch, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(make_llama: Make, reentrant: bool) -> None:
    model = large_adapter(make_llama()).train()
    plain = gradients(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again = gradients(model)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_fused_path_and_base_call_give_the_same_gradients(make_model: Make) -> None:
    model = large_adapter(make_model())
    fused = gradients(model)
    for module in model.modules():
        if isinstance(module, MultiLoraLinear):
            module.base_layer.register_forward_hook(lambda *_: None)
    called = gradients(model)
    for name in fused:
        torch.testing.assert_close(fused[name], called[name], rtol=1e-4, atol=1e-6)


def test_no_more_graph_breaks_than_peft_s_lora(make_llama: Make) -> None:
    counts = []
    for config in (MultiLoraConfig(r=4), LoraConfig(r=4, target_modules="all-linear")):
        torch._dynamo.reset()
        model = get_peft_model(make_llama(num_hidden_layers=1), config).eval()
        counts.append(torch._dynamo.explain(model)(tokens(model), use_cache=False).graph_break_count)
    assert counts[0] <= counts[1]


def test_scale_moves_first_and_then_everything(make_llama: Make) -> None:
    """With s = 0 the gradients of A and B are zero (method: step 0)."""
    model = get_peft_model(make_llama(), MultiLoraConfig(r=4)).eval()
    first = gradients(model)
    for name, gradient in first.items():
        assert bool((gradient == 0).all()) is ("multilora_scaling" not in name), name
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    assert all((gradient != 0).any() for gradient in gradients(model).values())


def test_deep_copy_of_an_adapted_model(make_llama: Make) -> None:
    model = large_adapter(make_llama())
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def test_mixed_batch_equals_each_adapter_alone(make_model: Make) -> None:
    model = large_adapter(make_model())
    torch.manual_seed(3)
    model.add_adapter("other", MultiLoraConfig(r=2, num_loras=2, scaling="scalar", init_weights=False))
    model.eval()
    batch, names = tokens(model), ["other", "default", "__base__"]
    with torch.no_grad():
        mixed = model(batch, adapter_names=names).logits
        for i, name in enumerate(names[:2]):
            model.set_adapter(name)
            assert_same_logits(mixed[i], model(batch).logits[i])
        with model.disable_adapter():
            assert_same_logits(mixed[2], model(batch).logits[2])
    generated = model.generate(
        batch, adapter_names=names, num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    model.set_adapter("other")
    alone = model.generate(batch[:1], num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(generated[0], alone[0])


def test_convert_to_lora_by_peft(make_llama: Make) -> None:
    from peft import convert_to_lora, set_peft_model_state_dict

    model = large_adapter(make_llama())
    config, state = convert_to_lora(model, rank=12)
    lora = get_peft_model(make_llama(), config)
    set_peft_model_state_dict(lora, state)
    assert_same_logits(logits(lora.eval()), logits(model))
