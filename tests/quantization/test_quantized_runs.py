"""Training on a quantised base: its laws hold, what is trained is in fp32, and evaluation has the same base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
from typer.testing import CliRunner

from multilora import InputError, export_lora
from multilora.base.quantization import trained_in_fp32
from multilora.evaluation.evaluated_model import EvaluatedModel
from multilora.merging.merge import merge_adapters
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.runs.find import Adapter
from multilora.terminal import Silent
from multilora.training.run import RunResult, train
from multilora.tuner.bnb import packed_bits, packed_tensors
from multilora_cli.main import app
from quantization.quantized import adapted, layers, load, logits
from tiny_run import make_model, make_recipe

SECTIONS: dict[str, dict[str, Any]] = {"4": {"bits": 4, "double_quant": True}, "8": {"bits": 8}}
BOTH = pytest.mark.parametrize("bits", SECTIONS)


class Interrupted(Silent):
    def __init__(self, at: int) -> None:
        self._at = at

    def step(self, step: int, metrics: Any) -> None:
        if step == self._at:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with model and data. Its base layers would be sorted for evaluation, if they were let."""
    folder = tmp_path_factory.mktemp("room")
    make_recipe(folder)
    shutil.rmtree(folder / "model")
    make_model(folder / "model", hidden_size=64, intermediate_size=128)
    return folder


def recipe(room: Path, out: Path, bits: str, validation: Any = None, method: Any = None, **training: Any) -> Recipe:
    data = yaml.safe_load((room / "recipe.yaml").read_text())
    data |= {"model": {"path": str(room / "model"), "quantization": SECTIONS[bits]}, "validation": validation}
    data["training"] |= {"output": str(out), **training}
    for name in data["tasks"]:
        data["tasks"][name]["validation_share"] = 0.2
    return Recipe.model_validate(data | ({"method": method} if method else {}))


def weights(result: RunResult) -> dict[str, Tensor]:
    return load_file(result.weights / "adapter_model.safetensors")


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="session")
def once(room: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    """An uninterrupted run with each number of bits; not to be changed."""
    folder = tmp_path_factory.mktemp("once")
    return {bits: train(recipe(room, folder / f"run{bits}", bits)) for bits in SECTIONS}


# Training -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_run_trains_everything_in_fp32(bits: str, once: dict[str, RunResult], room: Path) -> None:
    result, found = once[bits], weights(once[bits])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    for name, tensor in found.items():
        assert not torch.equal(tensor, tensor.bfloat16().float()), name  # numbers that bf16 could not hold
        if "scaling" in name:
            assert tensor.abs().max() > 0
    state = torch.load(result.folder / "checkpoints" / "checkpoint-12" / "optimizer.pt", weights_only=True)["state"]
    assert {moment.dtype for one in state.values() for moment in one.values() if moment.dim()} == {torch.float32}
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    plain = load_recipe(room / "recipe.yaml")
    assert result.results.recipe_hash != plain.recipe_hash()
    assert "bitsandbytes" in result.results.versions
    unpacked = sum(tensor.numel() for tensor in load_file(room / "model" / "model.safetensors").values())
    assert result.results.parameters.total - result.results.parameters.trainable == unpacked


@pytest.mark.parametrize(("bits", "step"), [("4", 3), ("4", 7), ("8", 7)])
def test_interrupted_and_resumed_is_uninterrupted(
    bits: str, step: int, once: dict[str, RunResult], room: Path, tmp_path: Path
) -> None:
    same = recipe(room, tmp_path / "run", bits)
    with pytest.raises(KeyboardInterrupt):
        train(same, progress=Interrupted(step))
    assert_same(weights(once[bits]), weights(train(same, resume=True)))


@BOTH
def test_validation_changes_nothing(bits: str, once: dict[str, RunResult], room: Path, tmp_path: Path) -> None:
    assert_same(weights(once[bits]), weights(train(recipe(room, tmp_path / "run", bits, validation={"every": 2}))))


def test_packed_rows_and_recomputed_blocks_are_trained_in_bf16(room: Path, tmp_path: Path) -> None:
    # Packing is checked by a forward pass in evaluation mode, before training.
    changes: dict[str, Any] = {"packing": True, "batch_size": 1, "precision": "bf16", "gradient_checkpointing": True}
    result = train(recipe(room, tmp_path / "run", "4", **changes))
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {tensor.dtype for tensor in weights(result).values()} == {torch.float32}


def test_plain_lora_is_trained_in_fp32_too(room: Path, tmp_path: Path) -> None:
    result = train(recipe(room, tmp_path / "run", "4", method={"name": "lora", "r": 8}, precision="bf16"))
    assert {tensor.dtype for tensor in weights(result).values()} == {torch.float32}


# TRL alone ---------------------------------------------------------------------------------------------------------


def sft_trainer(model: Any, room: Path, out: Path) -> SFTTrainer:
    rows = Dataset.from_list([{"prompt": "one two:", "completion": " three"}] * 8)
    arguments = SFTConfig(
        output_dir=str(out),
        max_steps=3,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
    )
    tokenizer = AutoTokenizer.from_pretrained(room / "model")
    return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def scales(model: Any) -> list[Tensor]:
    return [layer.multilora_scaling["default"].weight for layer in layers(model).values()]


def test_trl_casts_what_is_trained_and_this_keeps_it(room: Path, tmp_path: Path) -> None:
    model = adapted(load(room / "model"), init_weights=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with trained_in_fp32(model):
        trainer = sft_trainer(model, room, tmp_path)
        assert {scale.dtype for scale in scales(model)} == {torch.bfloat16}  # else this is needed no longer
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
    trainer.train()
    assert {scale.dtype for scale in scales(model)} == {torch.float32}
    assert all(scale.abs().max() > 0 for scale in scales(model))


def test_a_model_that_nobody_casts_is_left_alone() -> None:
    model = torch.nn.Linear(3, 2)
    data = model.weight.data
    with trained_in_fp32(model):
        model.weight.data = torch.ones(2, 3)
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert data.dtype is torch.float32


# What comes of it ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("base", [False, True], ids=["adapter", "base"])
def test_a_run_is_evaluated_on_its_quantised_base(bits: str, base: bool, once: dict[str, RunResult]) -> None:
    subject = EvaluatedModel.find(str(once[bits].folder), None, base, trust_remote_code=False)
    model, _ = subject.load()
    packed = [module for module in model.modules() if packed_bits(module)]
    assert len(packed) == 14
    assert {packed_bits(module) for module in packed} == {int(bits)}
    before = [tensor.clone() for tensor in packed_tensors(model)]
    evaluated = logits(model)
    assert all(torch.equal(*pair) for pair in zip(before, packed_tensors(model), strict=True))
    if bits == "4" and base:  # 8 bits round their input in evaluation; the adapter has dropout in training
        assert torch.equal(evaluated, logits(model.train()))


def test_its_adapter_is_exported_and_loaded(once: dict[str, RunResult], room: Path, tmp_path: Path) -> None:
    export_lora(once["4"].weights, tmp_path / "lora")
    base = EvaluatedModel.find(str(once["4"].folder), None, base=True, trust_remote_code=False)
    own = PeftModel.from_pretrained(base.load()[0], str(once["4"].weights)).eval()
    lora = PeftModel.from_pretrained(base.load()[0], str(tmp_path / "lora")).eval()
    assert len(packed_tensors(own)) == len(packed_tensors(lora)) > 0
    wanted = logits(own)
    assert torch.allclose(logits(lora), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_its_merged_answers_keep_what_was_trained(once: dict[str, RunResult]) -> None:
    """Merged into packed weights it would answer as the base model does."""
    subject = EvaluatedModel.find(str(once["4"].folder), None, False, trust_remote_code=False)
    adapted = logits(subject.load()[0])
    merged, _ = subject.load(dequantized=True)
    merged = merged.merge_and_unload().eval()
    assert not packed_tensors(merged)
    torch.testing.assert_close(logits(merged), adapted, rtol=0, atol=0.02 * float(adapted.abs().max()))
    base = EvaluatedModel.find(str(once["4"].folder), None, True, trust_remote_code=False).load()[0]
    assert (logits(merged) - adapted).norm() < 0.1 * (logits(base) - adapted).norm()


def test_the_adapter_alone_is_evaluated_on_the_quantised_base_too(once: dict[str, RunResult]) -> None:
    model, _ = EvaluatedModel.find(str(once["4"].weights), None, False, trust_remote_code=False).load()
    assert torch.equal(logits(model), logits(EvaluatedModel.find(str(once["4"].folder), None, False, False).load()[0]))


def test_merging_it_into_the_unquantised_base_is_told(once: dict[str, RunResult], room: Path, tmp_path: Path) -> None:
    checkpoint = next((once["4"].folder / "checkpoints").iterdir())
    for number, adapter in enumerate((once["4"].weights, checkpoint)):
        report = merge_adapters(room / "model", [adapter], tmp_path / f"merged{number}")
        assert any("was trained on its base model in 4 bits" in note for note in report.notes)
    done = CliRunner().invoke(app, ["export", str(once["4"].weights), str(tmp_path / "exported")])
    assert "was trained on its base model in 4 bits" in done.output


def test_somebody_elses_recipe_beside_an_adapter_says_nothing(once: dict[str, RunResult], tmp_path: Path) -> None:
    adapter = shutil.copytree(once["4"].weights, tmp_path / "adapter")
    (tmp_path / "recipe.yaml").write_text("flour: 500 g\n")
    assert Adapter(adapter).run() is None
    (tmp_path / "data.json").write_text("{}")
    assert Adapter(adapter).trained_bits() is None
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        Adapter(adapter).run()
