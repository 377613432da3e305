"""The model card that `save_pretrained` writes: right numbers, and nothing of somebody's overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

from adapter_files import needs_adapter_methods
from multilora import MultiLoraConfig

Make = Callable[..., PreTrainedModel]


def adapted(base: PreTrainedModel, **arguments: Any) -> PeftModel:
    return get_peft_model(base, MultiLoraConfig(**({"r": 4, "num_loras": 2, "task_type": "CAUSAL_LM"} | arguments)))


def read(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_says_what_the_folder_holds(make_llama: Make, tmp_path: Path) -> None:
    model = adapted(make_llama(), target_modules=["q_proj", "down_proj"], lora_alpha=8)
    model.peft_config["default"].base_model_name_or_path = "org/base"
    model.save_pretrained(tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert data["library_name"] == "peft"
    assert data["pipeline_tag"] == "text-generation"
    assert data["base_model"] == "org/base"
    assert {"multilora", "peft", "base_model:adapter:org/base"} <= set(data["tags"])
    text = read(tmp_path)
    numbers = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert f"| parameters in the file | {numbers:,} |" in text
    assert "| adapted layers | 4: `down_proj`, `q_proj` |" in text
    assert "(`num_loras`) | 2 |" in text
    assert "(`r`) | 4 |" in text
    assert "| rank of all together | 8 |" in text
    assert "(`lora_alpha`) | 8 |" in text
    assert "pip install multilora" in text
    assert "KeyError: 'MULTILORA'" in text
    assert 'AutoPeftModelForCausalLM.from_pretrained("ADAPTER")' in text
    assert "[More Information Needed]" not in text


def test_saving_again_changes_no_byte(make_llama: Make, tmp_path: Path) -> None:
    model = adapted(make_llama())
    model.save_pretrained(tmp_path)
    before = read(tmp_path)
    model.save_pretrained(tmp_path)
    assert read(tmp_path) == before
    adapted(make_llama(), r=5).save_pretrained(tmp_path)
    assert "(`r`) | 5 |" in read(tmp_path)


def test_no_place_on_this_machine_is_named(make_llama: Make, tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    model = adapted(type(make_llama()).from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    assert str(tmp_path) not in read(tmp_path / "adapter")
    assert "MultiLoRA adapter of base" in read(tmp_path / "adapter")


def test_somebody_s_card_is_what_peft_leaves_of_it(make_llama: Make, tmp_path: Path) -> None:
    """PEFT itself adds tags and its version to any card."""
    mine = "---\nlicense: mit\n---\n\n# Mine\n\nWords.\n"
    folders = tmp_path / "ours", tmp_path / "peft"
    model = adapted(make_llama())
    for folder in folders:
        folder.mkdir()
        (folder / "README.md").write_text(mine)
    model.create_or_update_model_card(str(folders[1]))
    model.save_pretrained(folders[0])
    assert read(folders[0]) == read(folders[1])
    assert "# Mine\n\nWords." in read(folders[0])


def test_each_adapter_has_its_own(make_llama: Make, tmp_path: Path) -> None:
    model = adapted(make_llama())
    model.add_adapter("other", MultiLoraConfig(r=6, num_loras=1))
    model.save_pretrained(tmp_path)
    assert "(`r`) | 4 |" in read(tmp_path)
    assert "(`r`) | 6 |" in read(tmp_path / "other")


def test_what_no_export_holds_is_said(make_llama: Make, tmp_path: Path) -> None:
    adapted(make_llama(), modules_to_save=["lm_head"]).save_pretrained(tmp_path)
    assert "`multilora export" not in read(tmp_path)
    assert "merge_and_unload" in read(tmp_path)
    assert "| modules trained in full | `lm_head` |" in read(tmp_path)


@needs_adapter_methods
def test_transformers_own_saving_has_one_too(make_llama: Make, tmp_path: Path) -> None:
    """It writes the configuration first, so the tensors that lie there may be of another adapter."""
    adapted(make_llama()).save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    model = make_llama()
    model.add_adapter(MultiLoraConfig(r=7, num_loras=1))
    model.save_pretrained(tmp_path)
    assert "(`r`) | 7 |" in read(tmp_path)
    assert "parameters in the file" not in read(tmp_path)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS", "TOKEN_CLS"])
def test_any_task(make_llama: Make, tmp_path: Path, task_type: str | None) -> None:
    config = MultiLoraConfig(r=2, task_type=task_type, base_model_name_or_path="org/base")
    config.save_pretrained(str(tmp_path))
    expected = {None: None, "SEQ_CLS": "text-classification", "TOKEN_CLS": "token-classification"}[task_type]
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == expected
    assert ("PeftModel.from_pretrained(base_model" in read(tmp_path)) == (task_type is None)
