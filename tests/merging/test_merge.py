"""The laws of merging: merged = adapted, what no adapter changes is kept, and the reported error is the real one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from adapter_files import assert_same_logits, lora_config, save_adapter
from merging.merging_cases import (
    adapted_logits,
    contents,
    deltas,
    merged_logits,
    multilora,
    save_adapter_of,
    save_llama,
    tensors,
)
from multilora.errors import InputError
from multilora.merging import blocks
from multilora.merging.files import InputFile
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
from tiny_run import byte_level_tokenizer

Make = Callable[..., PreTrainedModel]

CONFIGS: dict[str, Callable[[], Any]] = {
    "vector": multilora,
    "scalar": lambda: multilora(scaling="scalar", lora_alpha=7),
    "none, patterns": lambda: multilora(
        scaling="none", rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.1\..*v_proj": 9}
    ),
    "some layers": lambda: multilora(target_modules=["q_proj", "down_proj"], layers_to_transform=[1]),
    "lora": lora_config,
    "rslora": lambda: lora_config(use_rslora=True, lora_alpha=4, rank_pattern={"k_proj": 2}),
    "modules_to_save": lambda: multilora(modules_to_save=["lm_head", "embed_tokens"]),
    "lora, modules_to_save": lambda: lora_config(modules_to_save=["norm"]),
    "biases": lambda: lora_config(bias="all"),
    "own biases": lambda: multilora(bias="multilora_only"),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = save_llama(tmp_path / "base")
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter_of(base, tmp_path / "adapter", multilora())


# merged = adapted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_computes_what_the_adapted_model_computes(tmp_path: Path, name: str) -> None:
    base = save_llama(tmp_path / "base", attention_bias=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = CONFIGS[name]()
    save_adapter(model, tmp_path / "adapter", config)
    if config.modules_to_save or config.bias != "none":
        shake_whole_tensors(base, tmp_path / "adapter")
    merge_adapters(base, [tmp_path / "adapter"], tmp_path / "out")
    assert_same_logits(merged_logits(tmp_path / "out"), adapted_logits(base, tmp_path / "adapter"))


def shake_whole_tensors(base: Path, adapter: Path) -> None:
    """Have modules_to_save and biases differ from the base model's."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(adapter)


def test_conv1d_and_names_with_another_prefix(make_gpt2: Make, tmp_path: Path) -> None:
    """GPT-2 stores its weights turned, and its published checkpoint leaves the prefix `transformer.` out."""
    make_gpt2().save_pretrained(tmp_path / "base")
    config = lora_config(target_modules=["c_attn", "mlp.c_proj", "c_fc"], fan_in_fan_out=True)
    save_adapter_of(tmp_path / "base", tmp_path / "adapter", config)
    expected = adapted_logits(tmp_path / "base", tmp_path / "adapter")
    merge_adapters(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "out")
    assert_same_logits(merged_logits(tmp_path / "out"), expected)

    from safetensors.torch import save_file

    file = tmp_path / "base" / "model.safetensors"
    save_file({k.removeprefix("transformer."): v.clone() for k, v in tensors(tmp_path / "base").items()}, file)
    merge_adapters(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "short")
    assert tensors(tmp_path / "short").keys() == tensors(tmp_path / "base").keys()
    for name, tensor in tensors(tmp_path / "out").items():
        assert torch.equal(tensor, tensors(tmp_path / "short")[name.removeprefix("transformer.")])


def test_several_adapters_add_up_with_their_weights(base: Path, tmp_path: Path) -> None:
    one = save_adapter_of(base, tmp_path / "one", lora_config())
    two = save_adapter_of(base, tmp_path / "two", lora_config(r=6, target_modules=["q_proj", "up_proj"]))
    merge_adapters(base, [one, two], tmp_path / "sum")
    assert_same_logits(merged_logits(tmp_path / "sum"), adapted_logits(base, one, two))

    three = save_adapter_of(base, tmp_path / "three", multilora())  # of two methods
    weights = (0.5, -1.5)
    merge_adapters(base, [one, three], tmp_path / "mixed", MergeOptions(weights=weights))
    merged, before = tensors(tmp_path / "mixed"), tensors(base)
    for name, delta in deltas(base, one).items():
        expected = before[name] + weights[0] * delta + weights[1] * deltas(base, three)[name]
        assert torch.allclose(merged[name], expected, atol=1e-6)


def test_the_weight_zero_changes_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(weights=(0.0,)))
    for name, tensor in tensors(base).items():
        assert torch.equal(tensors(tmp_path / "out")[name], tensor)


def test_it_is_what_peft_merges(tmp_path: Path) -> None:
    """In bf16 too: the sum in fp32, rounded once; a sum in another order may round to the neighbour."""
    base = save_llama(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter_of(base, tmp_path / "adapter", multilora())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter)
    theirs = model.merge_and_unload().state_dict()
    merge_adapters(base, [adapter], tmp_path / "out")
    for name, tensor in tensors(tmp_path / "out").items():
        assert tensor.dtype == torch.bfloat16
        assert torch.allclose(tensor.float(), theirs[name].float(), rtol=2**-7, atol=0)
        assert (tensor == theirs[name]).float().mean() > 0.99


# What stays --------------------------------------------------------------------------------------------------------


def test_what_no_adapter_changes_stays_bit_for_bit(base: Path, adapter: Path, tmp_path: Path) -> None:
    byte_level_tokenizer().save_pretrained(base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "LICENSE").write_text("free")
    for leftover in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "trainer_state.json", "README.md"):
        (base / leftover).write_text("{}")
    before = contents(base)
    merge_adapters(base, [adapter], tmp_path / "out")
    assert contents(base) == before
    after = contents(tmp_path / "out")
    weights = {name for name in before if "safetensors" in name}
    copied = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    copied |= {"chat_template.jinja", "LICENSE"}
    assert set(after) == weights | copied | {"merge_report.json", "README.md"}
    for name in copied:
        assert after[name] == before[name]
    changed = set(deltas(base, adapter))
    merged = tensors(tmp_path / "out")
    assert merged.keys() == tensors(base).keys()
    for name, tensor in tensors(base).items():
        assert torch.equal(tensor, merged[name]) == (name not in changed)
    index = "model.safetensors.index.json"
    ours, theirs = (json.loads((place / index).read_text()) for place in (tmp_path / "out", base))
    assert ours["weight_map"] == theirs["weight_map"]
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]


def test_another_dtype_is_everywhere(base: Path, adapter: Path, tmp_path: Path) -> None:
    report = merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(dtype="bfloat16"))
    assert report.dtypes == ("bfloat16",)
    found = tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in found.values())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    exact = deltas(base, adapter)
    for name, tensor in tensors(base).items():
        expected = (tensor + exact.get(name, 0.0)).bfloat16().float()
        assert torch.allclose(found[name].float(), expected, rtol=2**-7, atol=0)


def test_a_model_in_one_file_has_no_index(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", shard="5GB")
    adapter = save_adapter_of(base, tmp_path / "adapter", multilora())
    report = merge_adapters(base, [adapter], tmp_path / "out")
    assert report.shards == ("model.safetensors",)
    assert not list((tmp_path / "out").glob("*index*"))


# The error of rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, None])
def test_the_reported_error_is_the_measured_one(tmp_path: Path, dtype: torch.dtype, stored: torch.dtype | None) -> None:
    """Measured on the files, in fp64. A small weight, so that some entries of ΔW are lost."""
    base = save_llama(tmp_path / "base", dtype=stored or dtype)
    adapter = save_adapter_of(base, tmp_path / "adapter", multilora())
    name = str(dtype).removeprefix("torch.")
    report = merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(dtype=name, weights=(0.01,)))
    assert report.rounding is not None
    before, after, exact = tensors(base), tensors(tmp_path / "out"), deltas(base, adapter)
    reported = {entry.name: entry for entry in report.rounding}
    assert reported.keys() == (before.keys() if stored else exact.keys())  # all are cast, or the adapted ones
    for name, whole in exact.items():
        delta = 0.01 * whole
        target = before[name].float() + delta
        error = (after[name].float() - target).double()
        entry = reported[name]
        assert entry.largest == pytest.approx(float(error.abs().max()), rel=1e-3)
        assert entry.relative == pytest.approx(float(error.norm() / target.double().norm()), rel=1e-4)
        assert entry.relative_to_delta == pytest.approx(float(error.norm() / delta.double().norm()), rel=1e-4)
        lost = (after[name] == before[name].to(dtype)).double().mean()
        assert entry.lost == pytest.approx(float(lost), abs=1e-9)
        assert entry.lost > 0
    record = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    assert [entry["name"] for entry in record["rounding"]] == [entry.name for entry in report.rounding]


def test_nothing_is_rounded_in_fp32_and_no_report_changes_no_weight(base: Path, adapter: Path, tmp_path: Path) -> None:
    report = merge_adapters(base, [adapter], tmp_path / "out")
    assert report.rounding
    assert {entry.largest for entry in report.rounding} == {0.0}
    without = merge_adapters(base, [adapter], tmp_path / "without", MergeOptions(report=False))
    assert without.rounding is None
    weights = [name for name in contents(tmp_path / "out") if name != "merge_report.json"]
    for name in weights:
        assert contents(tmp_path / "out")[name] == contents(tmp_path / "without")[name]


# Blocks ------------------------------------------------------------------------------------------------------------


def test_the_result_is_the_same_on_any_number_of_threads(base: Path, adapter: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            merge_adapters(base, [adapter], tmp_path / f"out{count}", MergeOptions(dtype="bfloat16"))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out3")


def test_memory_holds_blocks_and_not_tensors(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_adapters(base, [adapter], tmp_path / "whole")
    block, read = 150, list[int]()
    monkeypatch.setattr(blocks, "BLOCK", block)
    read_into = InputFile.read_into

    def recorded(self: InputFile, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer))
        read_into(self, buffer, offset)

    monkeypatch.setattr(InputFile, "read_into", recorded)
    merge_adapters(base, [adapter], tmp_path / "blocks")
    assert max(read) <= 4 * block  # bytes of 150 numbers, three rows of 48
    whole = tensors(tmp_path / "whole")
    for name, tensor in tensors(tmp_path / "blocks").items():
        assert torch.allclose(tensor, whole[name], atol=1e-6)


def test_the_model_card_names_what_was_merged_and_no_place(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(weights=(0.5,)))
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "transformers"
    assert {"merge", "multilora"} <= set(card.data.tags)
    assert re.search(rf"\| `{adapter.name}` \| \[MultiLoRA\]\(.*\) \| 0.5 \| \d+ \|", card.text)
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()


def test_a_changed_model_card_is_no_other_merge_and_is_not_overwritten(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    merge_adapters(base, [adapter], tmp_path / "out")
    merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(dtype="bfloat16", overwrite=True))
    assert "all tensors in bfloat16" in (tmp_path / "out/README.md").read_text()
    (tmp_path / "out/README.md").write_text("# Mine\n")
    assert merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(dtype="bfloat16")).complete_before
    with pytest.raises(InputError, match=r"overwriting would lose: README\.md"):
        merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(overwrite=True))
    assert (tmp_path / "out/README.md").read_text() == "# Mine\n"
