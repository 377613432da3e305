"""Injection: what is targeted, what is refused, and how transformers and PEFT load adapters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from peft.utils.error import NoMatchingPeftModuleError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from adapter_files import needs_adapter_methods
from multilora import InputError, MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear
from multilora.tuner.targets import linear_layer_names

Make = Callable[..., PreTrainedModel]
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]


def adapted(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, MultiLoraLinear)})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, sorted(ATTENTION + MLP)),
        ({"target_modules": None}, sorted(ATTENTION + MLP)),
        ({"target_modules": ["q_proj", "v_proj"]}, ["q_proj", "v_proj"]),
        ({"target_modules": r".*mlp\.(gate|up)_proj"}, ["gate_proj", "up_proj"]),
        ({"exclude_modules": ["down_proj"]}, sorted(set(ATTENTION + MLP) - {"down_proj"})),
    ],
)
def test_targets(make_llama: Make, arguments: dict[str, Any], expected: list[str]) -> None:
    assert adapted(get_peft_model(make_llama(), MultiLoraConfig(r=2, **arguments))) == expected


def test_layers_to_transform(make_llama: Make) -> None:
    config = MultiLoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")
    model = get_peft_model(make_llama(), config)
    assert model.targeted_module_names == ["model.layers.1.self_attn.q_proj"]


def test_output_layer_is_left_alone(make_llama: Make) -> None:
    assert "lm_head" in linear_layer_names(make_llama())
    assert "lm_head" not in adapted(get_peft_model(make_llama(), MultiLoraConfig(r=2)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_porj"], r"target_modules \['q_porj'\] match no module; nearest: 'q_proj'.*`multilora targets MODEL`"),
        (r".*\.q_porj", r"target_modules '\.\*\\\\\.q_porj' match no linear layer .*nearest: 'q_proj'"),
        (["zzz"], "match no module; the model's linear layers end in 'down_proj', 'gate_proj'"),
    ],
)
def test_targets_that_match_nothing(make_llama: Make, targets: Any, message: str) -> None:
    model = make_llama()
    with pytest.raises(InputError, match=message) as caught:
        get_peft_model(model, MultiLoraConfig(target_modules=targets))
    assert isinstance(caught.value, NoMatchingPeftModuleError)
    assert adapted(model) == []


def test_one_target_of_several_that_matches_nothing_is_warned_of(make_llama: Make) -> None:
    with pytest.warns(UserWarning, match=r"target_modules \['v_porj'\] match no module; nearest: 'v_proj'"):
        get_peft_model(make_llama(), MultiLoraConfig(r=2, target_modules=["q_proj", "v_porj"]))


def test_unsupported_layer_is_named_with_its_type(make_llama: Make) -> None:
    with pytest.raises(InputError, match=r"'model\.embed_tokens' is not supported: it is a torch\.nn\..*Embedding"):
        get_peft_model(make_llama(), MultiLoraConfig(target_modules=["embed_tokens"]))


def test_full_rank_adapter_is_warned_of(make_llama: Make) -> None:
    with pytest.warns(UserWarning, match=r"k_proj: num_loras \* r = 48 is above min\(d_in, d_out\) = 24"):
        get_peft_model(make_llama(), MultiLoraConfig(r=16, target_modules=["k_proj"], init_weights="orthogonal"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(make_llama(), MultiLoraConfig(r=8, target_modules=["k_proj"]))


def test_parameter_count(make_llama: Make) -> None:
    """n·r·(d_in + d_out) for A and B; n·d_out (vector), n (scalar) or nothing for the scale."""
    layers = [(48, 48), (48, 24), (48, 24), (48, 48), (48, 80), (48, 80), (80, 48)] * 2
    n, r = 3, 4
    for scaling, scale in (("vector", lambda d_out: n * d_out), ("scalar", lambda _: n), ("none", lambda _: 0)):
        model = get_peft_model(make_llama(), MultiLoraConfig(r=r, num_loras=n, scaling=scaling))
        expected = sum(n * r * (d_in + d_out) + scale(d_out) for d_in, d_out in layers)
        assert model.get_nb_trainable_parameters()[0] == expected


def test_only_adapter_parameters_are_trainable(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2))
    assert all("multilora_" in name for name, p in model.named_parameters() if p.requires_grad)
    model.add_adapter("other", MultiLoraConfig(r=2))
    assert not any(".other" in name for name, p in model.named_parameters() if p.requires_grad)
    model.set_adapter("other")
    assert all(name.endswith(".other.weight") for name, p in model.named_parameters() if p.requires_grad)


def test_adapters_of_a_half_precision_base_are_fp32(make_llama: Make) -> None:
    model = get_peft_model(make_llama().bfloat16(), MultiLoraConfig(r=2))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("bias", ["all", "multilora_only"])
def test_trained_biases_are_saved_and_loaded(make_gpt2: Make, bias: str, tmp_path: Path) -> None:
    model = get_peft_model(make_gpt2(), MultiLoraConfig(r=2, target_modules=["c_fc"], bias=bias))
    trained = [name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")]
    assert any("c_fc" in name for name in trained)
    assert any("c_attn" in name for name in trained) is (bias == "all")
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.data += 0.5
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(make_gpt2(), str(tmp_path)).eval()
    batch = torch.arange(1, 8)[None]
    assert torch.equal(loaded(batch).logits, model.eval()(batch).logits)


@needs_adapter_methods
def test_transformers_own_adapter_api(make_llama: Make, tmp_path: Path) -> None:
    source = get_peft_model(make_llama(), MultiLoraConfig(r=2, init_weights=False)).eval()
    source.save_pretrained(str(tmp_path))
    batch = torch.arange(1, 8)[None]
    model = make_llama()
    base = model(batch).logits
    model.load_adapter(str(tmp_path))
    assert torch.equal(model(batch).logits, source(batch).logits)
    model.disable_adapters()
    assert torch.equal(model(batch).logits, base)
    model = make_llama()
    model.add_adapter(MultiLoraConfig(r=2))
    assert torch.equal(model(batch).logits, base)


@pytest.mark.skipif(not needs_adapter_methods.args[0], reason="they work with this PEFT (the test above)")
def test_what_asks_for_a_later_peft_says_so(make_llama: Make) -> None:
    with pytest.raises(ValueError, match=f"PEFT.*not compatible.*{MIN_PEFT_VERSION}"):
        make_llama().add_adapter(MultiLoraConfig(r=2))


def test_direct_injection(make_llama: Make) -> None:
    model = make_llama()
    batch = torch.arange(1, 8)[None]
    base = model(batch).logits
    model = inject_adapter_in_model(MultiLoraConfig(r=2), model)
    assert adapted(model) == sorted(ATTENTION + MLP)
    assert torch.equal(model(batch).logits, base)


@pytest.mark.parametrize("targets", [["dt_proj"], ["in_proj", "out_proj"]])
def test_mamba_s_layers_that_are_never_called_are_refused(targets: Any) -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=4))
    with pytest.raises(InputError, match=r"MambaMixer reads its weight and never calls it.*exclude_modules="):
        get_peft_model(model, MultiLoraConfig(r=1, target_modules=targets))
    with pytest.warns(UserWarning, match=r"leaves out 3 layers .*mixer\.dt_proj \(1\)"):
        adapted_model = get_peft_model(model, MultiLoraConfig(r=1, init_weights=False)).eval()
    assert adapted(adapted_model) == ["in_proj"]
    batch = torch.arange(1, 7)[None]
    logits = adapted_model(batch).logits
    adapted_model.merge_adapter()
    torch.testing.assert_close(adapted_model(batch).logits, logits, rtol=1e-4, atol=1e-5)


def test_forward_on_the_meta_device(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2)).to("meta")
    assert model(torch.empty(1, 5, dtype=torch.long, device="meta")).logits.shape == (1, 5, 67)


# An adapter that does not fit ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(make_llama: Make, tmp_path: Path) -> Path:
    get_peft_model(make_llama(), MultiLoraConfig(r=2, init_weights=False)).save_pretrained(str(tmp_path))
    return tmp_path


def test_base_with_fewer_layers_is_refused(make_llama: Make, saved: Path) -> None:
    with pytest.raises(InputError, match=r"21 of its tensors have no place in the model, such as '.*layers\.1"):
        PeftModel.from_pretrained(make_llama(num_hidden_layers=1), str(saved))


def test_base_with_other_sizes_is_refused(make_llama: Make, saved: Path) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for .*multilora_A"):
        PeftModel.from_pretrained(make_llama(intermediate_size=96), str(saved))


def test_file_that_lacks_a_tensor_is_refused(make_llama: Make, saved: Path) -> None:
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    missing = sorted(tensors)[0]
    del tensors[missing]
    save_file(tensors, file)
    with pytest.raises(InputError, match=rf"1 are lacking, such as '{missing.removesuffix('.weight')}"):
        PeftModel.from_pretrained(make_llama(), str(saved))


# Mixed batches ------------------------------------------------------------------------------------------------------


def test_mixed_batches_refuse_unknown_adapters_and_training(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2)).eval()
    batch = torch.arange(1, 8)[None]
    with pytest.raises(InputError, match=r"no such adapter.*defualt; nearest: 'default'"):
        model(batch, adapter_names=["defualt"])
    with pytest.raises(InputError, match=r"adapter_names is for inference; call model\.eval\(\)"):
        model.train()(batch, adapter_names=["default"])
    hooks = [hook for module in model.base_model.model.model.modules() for hook in module._forward_pre_hooks.values()]
    assert not hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_adapter_added_beside_is_not_trained(make_llama: Make, dtype: torch.dtype) -> None:
    model = get_peft_model(make_llama().to(dtype), MultiLoraConfig(r=2), adapter_name="one")
    model.add_adapter("two", MultiLoraConfig(r=2))
    trained = {name.split(".")[-2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"one"}
    model.set_adapter("two")
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"two"}
