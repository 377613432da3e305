"""The estimate is near the peak of live tensor bytes in a training step, measured operation by operation."""

from __future__ import annotations

import gc
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedModel
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from llama_shapes import method
from multilora.base.shape import base_structure
from multilora.bench.kept import saved_bytes
from multilora.bench.live_bytes import LiveBytes, phased
from multilora.recipe.file import load_recipe
from multilora.resources.blocks import Computation
from multilora.resources.memory import ModelSizes, Workload, estimate
from multilora.resources.parameters import Parameters
from multilora.resources.plan import Plan, plan_recipe
from multilora.training.model import apply_method
from multilora.training.run import train
from multilora.training.sft import SftTrainer
from multilora.tuner.bnb import packed_tensors
from tiny_run import make_model

TOLERANCE = 0.15
CLOSE = {"loss": 0.05, "blocks": 0.1, "step": 0.02}  # each phase alone, so that errors cannot cancel
METHODS: dict[str, dict[str, Any]] = {
    "multilora": {"name": "multilora", "r": 8},
    "lora": {"name": "lora", "r": 24},
    "full": {"name": "full"},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with grouped keys, and rows of which some fill a batch and some leave padding."""
    folder = tmp_path_factory.mktemp("room")
    make_model(
        folder / "model",
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    rng = random.Random(0)
    for name, words in (("long", 300), ("short", 20)):
        rows = [{"q": "one", "a": " ".join(rng.choices(["two", "three", "four"], k=words))} for _ in range(30)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(room: Path, chosen: Mapping[str, Any], **training: Any) -> Path:
    task = {"prompt": "{q}:", "completion": " {a}"}
    data = {
        "model": str(room / "model"),
        "method": dict(chosen),
        "tasks": {name: {"train": str(room / f"{name}.jsonl"), **task} for name in ("long", "short")},
        "training": {
            "output": str(room / "run"),
            "steps": 2,
            "batch_size": 4,
            "max_length": 128,
            "on_long_example": "truncate",
            **training,
        },
        "hardware": {"device": "cpu"},
    }
    path = room / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def measured(path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The peak of live tensor bytes in `train`'s steps, by phase: blocks, loss, step."""
    counters: list[LiveBytes] = []
    steps = SftTrainer.train

    def counted(trainer: Any, **options: Any) -> Any:
        gc.collect()
        there = [*trainer.model.parameters(), *trainer.model.buffers(), *packed_tensors(trainer.model)]
        with LiveBytes(there) as live:
            counters.append(live)
            return steps(trainer, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SftTrainer, "train", counted)
        for name in ("forward", "backward"):
            function = getattr(ChunkedLogProbFunction, name)
            patch.setattr(ChunkedLogProbFunction, name, staticmethod(phased(function, lambda: counters[-1], "loss")))
        patch.setattr(torch.optim.AdamW, "step", phased(torch.optim.AdamW.step, lambda: counters[-1], "step"))
        train(load_recipe(path), overwrite=True)
    return counters[-1].peaks


def expected(plan: Plan) -> dict[str, int]:
    """The plan's bytes by the same phases."""
    totals = [moment.total for moment in plan.memory.moments]
    return {"loss": max(totals[0:2]), "blocks": max(totals[2:4]), "step": totals[4]}


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_block_keeps_what_autograd_says(name: str, bf16: bool, masked: bool, make_llama: Any) -> None:
    # What three layers keep more than two is one block's: ends and masks that all blocks share fall out.
    chosen = method(**METHODS[name])
    kept: list[int] = []
    for layers in (2, 3):
        model = make_llama(hidden_size=96, intermediate_size=160, num_hidden_layers=layers)
        blocks = ModelSizes.of(model, Parameters.of(model, chosen)).blocks
        if bf16 and name != "full":
            model.to(torch.bfloat16)
        adapted, _ = apply_method(model, chosen)
        ids, mask = torch.ones(2, 32, dtype=torch.int64), torch.ones(2, 32, dtype=torch.int64)
        mask[1, 16:] = 1 - masked

        def forward(adapted: Any = adapted, ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and name == "full"):
                return adapted(input_ids=ids, attention_mask=mask, use_cache=False).logits

        kept.append(saved_bytes(forward, [ids, mask, *adapted.train().parameters(), *adapted.buffers()]))
    how = Computation(name, bf16, dropout=False, rows=2, length=32, masked=masked, gpu=False)  # type: ignore[arg-type]
    assert blocks is not None
    casts = 2 * blocks[0].linear_weights if name == "full" and bf16 else 0
    assert kept[1] - kept[0] == pytest.approx(blocks[0].kept(how) + casts, rel=0.005)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_is_near_a_measured_run(
    name: str, precision: str, checkpointing: bool, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(room, METHODS[name], precision=precision, gradient_checkpointing=checkpointing)
    peaks, plan = measured(path, monkeypatch), plan_recipe(path)
    assert plan.memory.total == plan.memory.peak.total  # on a CPU nothing is assumed beside the tensors
    assert plan.memory.total == pytest.approx(max(peaks.values()), rel=TOLERANCE)
    for phase, total in expected(plan).items():
        assert total == pytest.approx(peaks[phase], rel=CLOSE[phase]), phase


@pytest.mark.parametrize(
    ("name", "options", "training"),
    [
        ("multilora", {}, {"packing": True, "batch_size": 2}),
        ("lora", {}, {"packing": True, "batch_size": 2, "gradient_checkpointing": True}),
        ("multilora", {"lora_dropout": 0.1}, {}),
        ("lora", {"lora_dropout": 0.1}, {"precision": "fp32"}),
        ("multilora", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [2, 3]}, {}),
        ("lora", {"target_modules": ["q_proj", "v_proj"]}, {"gradient_accumulation": 2}),
        ("full", {}, {"gradient_accumulation": 2}),
        ("multilora", {}, {"batch_size": 1}),
    ],
    ids=str,
)
def test_what_changes_memory_is_in_the_estimate(
    name: str, options: dict[str, Any], training: dict[str, Any], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(room, METHODS[name] | options, **training)
    peaks = measured(path, monkeypatch)
    for phase, total in expected(plan_recipe(path)).items():
        assert total == pytest.approx(peaks[phase], rel=CLOSE[phase]), phase


@pytest.mark.parametrize(
    ("name", "section", "training"),
    [
        ("multilora", {"bits": 4}, {}),
        ("multilora", {"bits": 4, "double_quant": True}, {"precision": "fp32"}),
        ("multilora", {"bits": 4}, {"gradient_checkpointing": True}),
        ("lora", {"bits": 4}, {}),
        ("multilora", {"bits": 8}, {}),
        ("multilora", {"bits": 8}, {"precision": "fp32", "gradient_checkpointing": True}),
    ],
    ids=str,
)
def test_quantised_weights_are_in_the_estimate(
    name: str, section: dict[str, Any], training: dict[str, Any], room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'multilora[quantized]'")
    path = recipe(room, METHODS[name], **training)
    data = yaml.safe_load(path.read_text())
    data["model"] = {"path": data["model"], "quantization": section}
    path.write_text(yaml.safe_dump(data))
    peaks, plan = measured(path, monkeypatch), plan_recipe(path)
    for phase, total in expected(plan).items():
        assert total == pytest.approx(peaks[phase], rel=CLOSE[phase]), phase


def sizes_and_work(room: Path, name: str = "multilora", **training: Any) -> tuple[ModelSizes, Workload]:
    loaded = load_recipe(recipe(room, METHODS[name], **training))
    model, _ = base_structure(loaded.model)
    return ModelSizes.of(model, Parameters.of(model, loaded.method)), Workload.of(loaded)


@pytest.mark.parametrize("name", METHODS)
def test_devices_share_what_is_sharded_and_copy_what_is_not(name: str, room: Path) -> None:
    sizes, work = sizes_and_work(room, name)
    one = estimate(sizes, work).moments[-1].parts
    copied = estimate(sizes, replace(work, devices=4)).moments[-1].parts
    sharded = estimate(sizes, replace(work, devices=4, sharded=True)).moments[-1].parts
    for part, count in one.items():
        assert copied[part] == count
        assert sharded[part] == pytest.approx(count / 4, abs=2)
    assert copied["between_devices"] == one["gradients"]
    assert sharded["between_devices"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_larger_batches_take_more_and_checkpointing_takes_less(name: str, room: Path) -> None:
    sizes, work = sizes_and_work(room, name)
    total = estimate(sizes, work).total
    assert estimate(sizes, replace(work, how=replace(work.how, rows=8))).total > total
    assert estimate(sizes, replace(work, how=replace(work.how, length=256))).total > total
    assert estimate(sizes, replace(work, gradient_checkpointing=True)).total < total
    assert estimate(sizes, replace(work, accumulates=True)).total >= total


def test_the_overhead_is_a_gpus(room: Path) -> None:
    sizes, work = sizes_and_work(room)
    on_gpu = estimate(sizes, replace(work, how=replace(work.how, gpu=True)))
    assert on_gpu.overhead > 2**30
    assert on_gpu.total == on_gpu.peak.total + on_gpu.overhead
    assert on_gpu.moments[1].total < estimate(sizes, work).moments[1].total  # the loss's kernel


def test_of_other_blocks_the_activations_are_said_to_be_unknown(make_gpt2: Any) -> None:
    model: PreTrainedModel = make_gpt2()
    parameters = Parameters.of(model, method("lora", target_modules=["c_attn"]))
    sizes = ModelSizes.of(model, parameters)
    assert sizes.blocks is None
    assert sizes.vocabulary == model.config.vocab_size
