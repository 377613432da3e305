"""What `multilora plan` reckons of quantised weights is what they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from multilora import InputError
from multilora.recipe import QuantizationSection
from multilora.resources.plan import plan_recipe
from multilora.resources.quantized import packed_bytes, quantized_weights
from multilora.tuner.bnb import packed_bits, packed_tensors
from places import ROOT
from quantization.quantized import KINDS, load
from tiny_run import make_model, make_recipe


def nbytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 64), (65, 33), (172, 48), (300, 129)], ids=str)
@pytest.mark.parametrize("section", [{}, {"double_quant": True}, {"type": "fp4"}, {"bits": 8}], ids=str)
def test_the_bytes_of_a_weight_are_those_of_its_tensors(shape: tuple[int, int], section: dict[str, Any]) -> None:
    import bitsandbytes as bnb

    chosen = QuantizationSection.model_validate(section)
    if chosen.bits == 8:
        layer: Any = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(*shape, False, compress_statistics=chosen.double_quant, quant_type=chosen.type)
    assert nbytes(packed_tensors(layer.to("cpu"))) == packed_bytes(*shape, chosen)


@pytest.mark.parametrize("skipped", [[], ["down_proj"]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_has_the_loaded_models_bytes(kind: str, skipped: list[str], folder: Path, tmp_path: Path) -> None:
    section, dtype = KINDS[kind]
    precision = "bf16" if dtype is torch.bfloat16 else "fp32"
    path = make_recipe(tmp_path, precision=precision)
    chosen = json.dumps(section | {"skip_modules": skipped})
    plan = plan_recipe(path, [f"model={folder}", f"model.quantization={chosen}", "hardware.device=cpu"])
    model = load(folder, kind, skip_modules=skipped)
    packed = packed_tensors(model)
    others = [p.data for p in model.parameters() if not hasattr(p, "quant_state") and not hasattr(p, "SCB")]
    parts = plan.memory.peak.parts
    assert parts["quantized_weights"] == nbytes(packed)
    assert parts["base_weights"] == nbytes(others)
    layers = [module for module in model.modules() if packed_bits(module)]
    assert plan.quantized is not None
    assert plan.quantized.numbers == sum(layer.in_features * layer.out_features for layer in layers)
    assert any(f"in {section['bits']} bits" in note for note in plan.notes())
    assert plan.facts()["quantized"]["bytes"] == nbytes(packed)


def test_a_stored_quantisation_is_reckoned_with(folder: Path, tmp_path: Path) -> None:
    load(folder, "nf4-double-bf16").save_pretrained(tmp_path / "stored")
    path = make_recipe(tmp_path)
    stored = plan_recipe(path, [f"model={tmp_path / 'stored'}"])
    asked = plan_recipe(path, [f"model={folder}", "model.quantization={double_quant: true}"])
    assert stored.quantized == asked.quantized is not None
    with pytest.raises(InputError, match=r"model\.quantization: the weights are quantised already"):
        plan_recipe(path, [f"model={tmp_path / 'stored'}", "model.quantization={}"])


def test_other_quantisers_are_not_reckoned_with(tmp_path: Path) -> None:
    path = make_recipe(tmp_path)
    config = tmp_path / "model" / "config.json"
    changed = json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    config.write_text(json.dumps(changed))
    with pytest.raises(InputError, match="quantised by 'gptq', whose size is not known"):
        plan_recipe(path)


def test_a_model_whose_layers_are_all_skipped_is_not_quantised(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "model"))
    section = QuantizationSection(skip_modules=["proj"])  # type: ignore[call-arg]
    assert quantized_weights(model, section) is None


def test_the_table_of_the_documentation_is_the_plan() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    memory = text.partition("## Memory")[2].partition("\n## ")[0]
    settings = {
        "bf16": [],
        "8 bits": ["model.quantization={bits: 8}"],
        "4 bits": ["model.quantization={}"],
        "4 bits, double_quant": ["model.quantization={double_quant: true}"],
    }
    for kind, overrides in settings.items():
        plan = plan_recipe(ROOT / "recipes" / "llama-7b.yaml", overrides)
        (row,) = [line for line in memory.splitlines() if line.startswith(f"| {kind} |")]
        assert row.split("|")[4].strip() == f"{plan.memory.total / 2**30:.2f}"
