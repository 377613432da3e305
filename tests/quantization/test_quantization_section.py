"""The section in a recipe, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from multilora import InputError
from multilora.base.loading import ModelSource
from multilora.base.quantization import require_bitsandbytes
from multilora.comparison.grid import Grid
from multilora.recipe import ComparisonSection, FullMethod, LoraMethod, ModelSection, Recipe
from multilora.recipe.file import load_recipe
from multilora.training.model import apply_method
from multilora.training.run import train
from multilora.tuner.quantizers import parameter_count
from tiny_run import make_model, make_recipe


def load(path: Path, quantization: str, *more: str) -> Recipe:
    return load_recipe(path, [f"model.quantization={quantization}", *more])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_recipe(tmp_path)


def test_an_empty_section_means_four_bits(path: Path) -> None:
    section = load(path, "{}").model.quantization
    assert section is not None
    assert (section.bits, section.type, section.double_quant, section.skip_modules) == (4, "nf4", False, [])


def test_without_the_section_a_recipe_says_and_hashes_nothing_of_it(path: Path) -> None:
    plain = load_recipe(path)
    assert "quantization" not in plain.resolved()["model"]
    assert load(path, "null").recipe_hash() == plain.recipe_hash()
    assert load(path, "{}").recipe_hash() != plain.recipe_hash() != load(path, "{bits: 8}").recipe_hash()


def test_a_resolved_recipe_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load(path, "{bits: 4, double_quant: true, compute_dtype: bf16, skip_modules: [down_proj]}")
    again = tmp_path / "resolved.yaml"
    again.write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(again).resolved() == recipe.resolved()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{bit: 4}", r"model\.quantization\.bit: unknown key; nearest: 'bits'"),
        ("{bits: 5}", r"model\.quantization\.bits: must be one of 4, 8; got 5"),
        ("{bits: true}", r"model\.quantization\.bits: must be one of 4, 8; got True"),
        ("{type: nf3}", r"model\.quantization\.type: must be one of nf4, fp4; got 'nf3'; nearest: 'nf4'"),
        ("{bits: 8, type: fp4}", r"type: fp4 has no effect with bits: 8"),
        ("{bits: 8, double_quant: true}", r"double_quant: True has no effect with bits: 8"),
        ("{bits: 8, compute_dtype: bf16}", r"compute_dtype: bf16 has no effect with bits: 8"),
        ("{compute_dtype: int8}", r"model\.quantization\.compute_dtype: must be one of bf16, fp16, fp32"),
        ("4", r"model\.quantization: "),
    ],
)
def test_what_cannot_be_is_refused(path: Path, section: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(path, section)


def test_full_fine_tuning_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.quantization: weights in 4 bits cannot be trained, as method full"):
        load(path, "{}", "method={name: full}")
    comparison = ComparisonSection.model_validate({"methods": {"lora@8": {}, "full": {}}})
    with pytest.raises(InputError, match=r"comparison\.methods: 'full' trains every weight, and weights in 8 bits"):
        Grid(load(path, "{bits: 8}"), comparison, path.parent / "out")


def test_without_bitsandbytes_the_install_line_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "multilora.base.quantization.find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(InputError, match=r"pip install 'multilora\[quantized\]'"):
        require_bitsandbytes()
    with pytest.raises(InputError, match=r"pip install 'multilora\[quantized\]'"):
        train(load(path, "{}"))
    assert not (path.parent / "run").exists()


def test_plain_parameters_count_as_they_are() -> None:
    assert parameter_count(torch.nn.Parameter(torch.ones(3, 2))) == 6


# With bitsandbytes --------------------------------------------------------------------------------------------------


@pytest.fixture
def bnb() -> Any:
    return pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'multilora[quantized]'")


@pytest.mark.parametrize(
    ("section", "method", "message"),
    [
        ("{skip_modules: [down_prj]}", None, r"skip_modules: 'down_prj' matches no linear layer; nearest: 'down_proj'"),
        ("{skip_modules: ['(']}", None, r"skip_modules: '\(' is no pattern"),
        ("{}", {"modules_to_save": ["q_proj"]}, r"modules_to_save: .*q_proj' is quantised"),
    ],
)
@pytest.mark.usefixtures("bnb")
def test_what_does_not_fit_the_model_is_refused(path: Path, section: str, method: Any, message: str) -> None:
    chosen = {"name": "multilora", "r": 2, **(method or {})}
    with pytest.raises(InputError, match=message):
        train(load(path, section, f"method={json.dumps(chosen)}"))
    assert not (path.parent / "run").exists()


@pytest.mark.usefixtures("bnb")
def test_the_output_layer_may_be_trained_whole(path: Path) -> None:
    method = json.dumps({"name": "multilora", "r": 2, "modules_to_save": ["lm_head"]})
    assert train(load(path, "{}", f"method={method}", "training.steps=2")).results.steps == 2


@pytest.mark.usefixtures("bnb")
def test_a_quantised_checkpoint_is_neither_quantised_again_nor_trained_whole(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    four = ModelSource.find(ModelSection.model_validate({"path": str(tmp_path / "model"), "quantization": {}}))
    four.model(torch.float32).save_pretrained(tmp_path / "stored")
    again = ModelSection.model_validate({"path": str(tmp_path / "stored"), "quantization": {}})
    with pytest.raises(InputError, match=r"model\.quantization: the weights are quantised already"):
        ModelSource.find(again).check_config()
    with pytest.raises(InputError, match=r"model\.quantization: the weights are quantised already"):
        ModelSource.find(again).model(torch.float32)
    stored = ModelSource.find(ModelSection.model_validate({"path": str(tmp_path / "stored")})).model(torch.float32)
    with pytest.raises(InputError, match="method full: the model's weights are quantised"):
        apply_method(stored, FullMethod.model_validate({"name": "full"}))
    assert apply_method(stored, LoraMethod.model_validate({"name": "lora", "r": 2}))[0].num_parameters() > 0
