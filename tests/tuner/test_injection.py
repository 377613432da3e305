"""An injection is whole or not at all; every task type; what is refused or said about what is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from multilora import InputError, MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]
BERT = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
DISTILBERT = DistilBertConfig(vocab_size=32, dim=16, hidden_dim=24, n_layers=1, n_heads=2)
T5 = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0)


def adapted(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, MultiLoraLinear)]


def picture(model: nn.Module) -> Any:
    """Everything of a model that an injection changes: modules by identity, attributes, parameters, gradients."""
    return [
        (name, id(module), sorted(module.__dict__), list(module._modules), module.training)
        for name, module in model.named_modules()
    ], [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()]


# All or nothing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": r".*(q_proj|norm)"},
        {"target_modules": ["q_porj"]},
        {"modules_to_save": ["lm_head"], "trainable_token_indices": [10**6]},
    ],
    ids=str,
)
@pytest.mark.parametrize("inject", [get_peft_model, lambda model, config: inject_adapter_in_model(config, model)])
def test_a_failed_injection_changes_nothing(make_llama: Make, arguments: dict[str, Any], inject: Any) -> None:
    model = make_llama()
    model.model.norm.weight.requires_grad_(False)
    before, weights = picture(model), copy.deepcopy(model.state_dict())
    config = MultiLoraConfig(r=2, **arguments)
    kept = copy.deepcopy(config)
    with pytest.raises(Exception, match=r".+"):
        inject(model, config)
    assert picture(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert config.target_modules == kept.target_modules
    # And it can be adapted as if nothing had been.
    assert len(adapted(get_peft_model(model, MultiLoraConfig(r=2)))) == 14


def test_a_failed_second_adapter_leaves_the_first_one_alone(make_llama: Make) -> None:
    model = get_peft_model(make_llama(), MultiLoraConfig(r=2, init_weights=False)).eval()
    batch = torch.arange(1, 8)[None]
    logits, before = model(batch).logits, picture(model)
    with pytest.raises(InputError, match="not supported"):
        model.add_adapter("other", MultiLoraConfig(r=3, target_modules=["q_proj", "up_proj", "embed_tokens"]))
    assert picture(model) == before
    assert torch.equal(model(batch).logits, logits)
    assert list(model.peft_config) == ["default"]
    assert model.active_adapters == ["default"]
    model.add_adapter("other", MultiLoraConfig(r=3, target_modules=["q_proj"]))
    model.set_adapter("other")
    assert torch.isfinite(model(batch).logits).all()


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_warning_that_is_an_error_leaves_the_model_alone(make_llama: Make) -> None:
    model = make_llama()
    before = picture(model)
    with pytest.raises(UserWarning, match="above min"):
        get_peft_model(model, MultiLoraConfig(r=16, target_modules=["k_proj"]))
    assert picture(model) == before


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "make", "head"),
    [
        ("SEQ_CLS", lambda: BertForSequenceClassification(BERT), {"classifier"}),
        ("SEQ_CLS", lambda: DistilBertForSequenceClassification(DISTILBERT), {"classifier", "pre_classifier"}),
        ("TOKEN_CLS", lambda: BertForTokenClassification(BERT), {"classifier"}),
        ("QUESTION_ANS", lambda: BertForQuestionAnswering(BERT), {"qa_outputs"}),
        ("FEATURE_EXTRACTION", lambda: BertModel(BERT), set[str]()),
        ("SEQ_2_SEQ_LM", lambda: T5ForConditionalGeneration(T5), set[str]()),
        ("CAUSAL_LM", None, set[str]()),
    ],
)
def test_every_task_type_works_with_the_defaults(
    make_llama: Make, task: str, make: Any, head: set[str], tmp_path: Path
) -> None:
    build = make or make_llama
    torch.manual_seed(0)
    model = get_peft_model(build(), MultiLoraConfig(r=1, num_loras=2, task_type=task, init_weights=False)).eval()
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert trained == head
    assert adapted(model)
    inputs = {"input_ids": torch.arange(1, 9)[None]}
    inputs |= {"decoder_input_ids": torch.arange(1, 5)[None]} if task == "SEQ_2_SEQ_LM" else {}
    model.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    assert adapted(loaded) == adapted(model)
    assert torch.equal(loaded(**inputs)[0], model(**inputs)[0])


def test_no_task_type_is_left_untried() -> None:
    tried = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM", "CAUSAL_LM"}
    assert {task.value for task in TaskType} == tried


def test_a_head_that_is_named_is_trained_in_full_and_that_is_said() -> None:
    config = MultiLoraConfig(r=1, task_type="TOKEN_CLS", target_modules=["query", "classifier"])
    with pytest.warns(UserWarning, match=r"target_modules \['classifier'\] are trained in full.*'TOKEN_CLS'"):
        model = get_peft_model(BertForTokenClassification(BERT), config)
    assert {name.rpartition(".")[2] for name in adapted(model)} == {"query"}


# What is named ------------------------------------------------------------------------------------------------------


def tied_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **shape)).eval()


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
def test_a_tied_output_layer_is_refused_and_its_remedy_works() -> None:
    model = tied_llama()
    config = MultiLoraConfig(r=1, target_modules=["q_proj", "lm_head"], init_weights=False)
    with pytest.raises(
        InputError, match=r"'lm_head' shares its weight with .*'model\.embed_tokens'.*untie it"
    ) as error:
        get_peft_model(model, config)
    assert adapted(model) == []
    namespace = {"model": model, "torch": torch}
    exec(str(error.value).partition("untie it first: ")[2], namespace)
    adapted_model = get_peft_model(model, config)
    batch = torch.arange(1, 8)[None]
    logits = adapted_model(batch).logits
    embeddings = model.model.embed_tokens.weight.clone()
    merged = adapted_model.merge_and_unload()
    torch.testing.assert_close(merged(batch).logits, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(merged.model.embed_tokens.weight, embeddings)


def test_the_default_leaves_a_tied_output_layer_alone() -> None:
    assert "lm_head" not in adapted(get_peft_model(tied_llama(), MultiLoraConfig(r=1)))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_torch_s_encoder_is_adapted_in_eval_too(padded: bool, grad: bool) -> None:
    """Its fast path reads the weights of linear1 and linear2, and never calls them."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2)
    config = MultiLoraConfig(r=1, target_modules=["linear1", "linear2"], init_weights=False)
    model = get_peft_model(encoder, config).eval()
    mask = torch.arange(5) >= torch.tensor([[5], [3 if padded else 5]])
    with torch.set_grad_enabled(grad):
        x = torch.randn(2, 5, 8)
        given = {"src_key_padding_mask": mask} if padded else {}
        evaluated = model(x, **given)[~mask]
        trained = model.train()(x, **given)[~mask]
        merged = model.eval().merge_and_unload()(x, **given)
    torch.testing.assert_close(evaluated, trained, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged[~mask] if merged.shape == (2, 5, 8) else merged, evaluated, rtol=1e-4, atol=1e-5)
