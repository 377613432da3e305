"""llama.cpp computes the adapted model's logits: from the exported LoRA, and from the merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapter_files import assert_same_logits, load, lora_config, save_adapter, without_copies_of_base_weights
from multilora import MultiLoraConfig, export_lora
from multilora.merging.merge import merge_adapters
from servers import llama_cpp_engine as engine

pytestmark = pytest.mark.skipif(bool(engine.MISSING), reason=engine.MISSING or "llama.cpp is here")


def multilora(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "lora_alpha": 6, "init_weights": False} | arguments))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return engine.make_base(tmp_path / "base")


@torch.no_grad()
def expected(base: Path, adapter: Path) -> Tensor:
    model = load(AutoModelForCausalLM.from_pretrained(base), adapter)
    return model(torch.tensor([engine.PROMPT]), use_cache=False).logits[0]


@pytest.mark.parametrize(
    "config",
    [
        multilora(),
        multilora(target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 2}),
        multilora(target_modules=["lm_head", "up_proj"]),
        lora_config(use_rslora=True, alpha_pattern={"v_proj": 3}),
    ],
)
def test_the_exported_lora(config: Any, base: Path, tmp_path: Path) -> None:
    save_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", config)
    without_copies_of_base_weights(base, tmp_path / "adapter")
    export_lora(tmp_path / "adapter", tmp_path / "lora")
    model = engine.convert("convert_hf_to_gguf.py", base, out=tmp_path / "base.gguf")
    lora = engine.convert("convert_lora_to_gguf.py", "--base", base, tmp_path / "lora", out=tmp_path / "lora.gguf")
    adapted = expected(base, tmp_path / "adapter")
    assert_same_logits(engine.logits(model, lora), adapted)
    assert (engine.logits(model) - adapted).abs().max() > 0.1 * adapted.abs().max()


def test_the_merged_model(base: Path, tmp_path: Path) -> None:
    save_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", multilora())
    merge_adapters(base, [tmp_path / "adapter"], tmp_path / "merged")
    model = engine.convert("convert_hf_to_gguf.py", tmp_path / "merged", out=tmp_path / "merged.gguf")
    assert_same_logits(engine.logits(model), expected(base, tmp_path / "adapter"))
