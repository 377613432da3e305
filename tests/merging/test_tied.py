"""Tied weights: an adapter that changes one of the two needs them apart, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from adapter_files import assert_same_logits, logits, lora_config
from merging.merging_cases import (
    adapted_logits,
    assert_no_model,
    merged_logits,
    multilora,
    save_adapter_of,
    save_llama,
    tensors,
)
from multilora.adapter.from_lora import from_lora
from multilora.errors import InputError
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
UNTIE = MergeOptions(untie=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = save_llama(tmp_path / "base", tie_word_embeddings=True)
    assert HEAD not in tensors(folder)
    return folder


def save_trained(base: Path, folder: Path, config: Any) -> torch.Tensor:
    """A random adapter with whole modules that differ from the base model's, and its logits."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    return logits(model.eval())


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_an_adapter_in_the_blocks_leaves_them_tied(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter_of(base, tmp_path / "adapter", multilora())
    merge_adapters(base, [adapter], tmp_path / "out")
    assert HEAD not in tensors(tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True
    assert_same_logits(merged_logits(tmp_path / "out"), adapted_logits(base, adapter))


@pytest.mark.parametrize(
    "config",
    [
        lora_config(target_modules=["q_proj", "lm_head"]),
        None,
        lora_config(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        lora_config(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ],
    ids=["LoRA on the output layer", "MultiLoRA on it", "a whole output layer", "whole embeddings"],
)
def test_refused_unless_they_are_untied(base: Path, tmp_path: Path, config: Any) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    if config is None:  # on tied weights a MultiLoRA is refused today, but not the LoRA that it may come from
        expected = save_trained(base, tmp_path / "lora", lora_config(target_modules=["q_proj", "lm_head"]))
        from_lora(tmp_path / "lora", adapter, num_loras=2)
    else:
        expected = save_trained(base, adapter, config)
    with pytest.raises(InputError, match=r"ties 'lm_head.weight' to 'model.embed_tokens.weight'.*--untie"):
        merge_adapters(base, [adapter], out)
    assert_no_model(out)
    report = merge_adapters(base, [adapter], out, UNTIE)
    assert any("tie_word_embeddings is false" in note for note in report.notes)
    assert config_of(out)["tie_word_embeddings"] is False
    found = tensors(out)
    assert not torch.equal(found[HEAD], found[EMBEDDINGS])
    assert json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].keys() == found.keys()
    assert_same_logits(merged_logits(out), expected)


def test_trained_as_one_they_stay_tied(base: Path, tmp_path: Path) -> None:
    config = lora_config(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    adapter = tmp_path / "adapter"
    expected = save_trained(base, adapter, config)
    merge_adapters(base, [adapter], tmp_path / "out")
    assert HEAD not in tensors(tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True
    assert_same_logits(merged_logits(tmp_path / "out"), expected)
    assert not torch.equal(tensors(tmp_path / "out")[EMBEDDINGS], tensors(base)[EMBEDDINGS])


def test_a_checkpoint_that_holds_both(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = next(path for path in base.glob("*.safetensors") if EMBEDDINGS in load_file(path))
    stored = load_file(file)
    save_file(stored | {HEAD: stored[EMBEDDINGS].clone()}, file, {"format": "pt"})
    index = base / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"][HEAD] = file.name
    index.write_text(json.dumps(data))
    adapter = tmp_path / "adapter"
    expected = save_trained(base, adapter, lora_config(target_modules=["lm_head"]))
    with pytest.raises(InputError, match="--untie"):
        merge_adapters(base, [adapter], tmp_path / "out")
    merge_adapters(base, [adapter], tmp_path / "out", UNTIE)
    assert_same_logits(merged_logits(tmp_path / "out"), expected)


def test_the_output_layer_of_an_untied_model(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    config = lora_config(target_modules=["lm_head", "q_proj"])
    save_trained(base, tmp_path / "adapter", config)
    merge_adapters(base, [tmp_path / "adapter"], tmp_path / "out")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert_same_logits(merged_logits(tmp_path / "out"), logits(model.eval()))
