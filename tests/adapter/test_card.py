"""Model cards of exports and of adapters made from a LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from adapter_files import change_config, lora_config, save_adapter
from multilora import InputError, MultiLoraConfig, export_lora, from_lora
from multilora.adapter.card import folder_card
from multilora.adapter.export.mlx import export_mlx

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def adapter(make_llama: Make, tmp_path: Path) -> Path:
    config = MultiLoraConfig(r=4, num_loras=3, init_weights=False, task_type="CAUSAL_LM")
    save_adapter(make_llama(), tmp_path / "a", config)
    change_config(tmp_path / "a", base_model_name_or_path="org/base")
    return tmp_path / "a"


def read(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_an_export_says_what_it_is_and_needs_no_multilora(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "lora", rank=2)
    data = ModelCard.load(tmp_path / "lora/README.md").data.to_dict()
    assert (data["base_model"], data["library_name"], data["pipeline_tag"]) == ("org/base", "peft", "text-generation")
    assert {"lora", "multilora", "peft"} <= set(data["tags"])
    text = read(tmp_path / "lora")
    rank = json.loads((tmp_path / "lora/adapter_config.json").read_text())["r"]
    assert f"| rank | {rank} |" in text
    assert "3 modules of rank 4" in text
    assert "cut to rank 2" in text
    assert "pip install multilora" not in text
    assert 'AutoPeftModelForCausalLM.from_pretrained("ADAPTER")' in text
    export_lora(adapter, tmp_path / "exact")
    assert "exactly" in read(tmp_path / "exact")


def test_an_export_replaces_our_card_and_nobody_else_s(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "lora", rank=2)
    export_lora(adapter, tmp_path / "lora", overwrite=True)
    assert "exactly" in read(tmp_path / "lora")
    (tmp_path / "lora/README.md").write_text("# Mine\n")
    with pytest.raises(InputError, match=r"overwriting would lose: README\.md"):
        export_lora(adapter, tmp_path / "lora", overwrite=True)
    assert read(tmp_path / "lora") == "# Mine\n"


def test_mlx_has_its_own(make_llama: Make, adapter: Path, tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    export_mlx(adapter, tmp_path / "mlx", base=str(tmp_path / "base"))
    assert ModelCard.load(tmp_path / "mlx/README.md").data.library_name == "mlx"
    assert "from peft" not in read(tmp_path / "mlx")


def test_an_adapter_made_of_a_lora_has_multilora_s(make_llama: Make, tmp_path: Path) -> None:
    save_adapter(make_llama(), tmp_path / "lora", lora_config())
    from_lora(tmp_path / "lora", tmp_path / "multi", num_loras=2)
    assert "(`num_loras`) | 2 |" in read(tmp_path / "multi")
    from_lora(tmp_path / "lora", tmp_path / "multi", num_loras=4, overwrite=True)
    assert "(`num_loras`) | 4 |" in read(tmp_path / "multi")
    assert folder_card(tmp_path / "lora").title.startswith("LoRA adapter")
    assert folder_card(tmp_path / "multi").body() in read(tmp_path / "multi")
