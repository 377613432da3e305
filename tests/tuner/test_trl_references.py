"""TRL's trainers on a trained adapter: their reference is that adapter, which they copy by parameters' names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from multilora import MultiLoraConfig
from multilora.tuner.layer import MultiLoraLayer
from tiny_run import make_model

PROMPTS = ["one two", "three four", "five", "six seven"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with a tokenizer, and in `adapter` an adapter on it whose ΔW is far from zero."""
    folder = make_model(tmp_path_factory.mktemp("trl"))
    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    get_peft_model(base, MultiLoraConfig(r=4, init_weights=False)).save_pretrained(str(folder / "adapter"))
    return folder


def preferences() -> Dataset:
    rows = [{"prompt": prompt, "chosen": " eight", "rejected": " nine ten"} for prompt in PROMPTS]
    return Dataset.from_list(rows)


def judged() -> Dataset:
    rows = [{"prompt": p, "completion": " eight", "label": number % 2 == 0} for number, p in enumerate(PROMPTS)]
    return Dataset.from_list(rows)


def prompts() -> Dataset:
    return Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])


def rewards(completions: list[str], **_: Any) -> Any:
    return [float(len(completion)) for completion in completions]


def options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "bf16": False,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
    }


def dpo(model: Any, tokenizer: Any, folder: Path) -> Any:
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=model, args=DPOConfig(**options(folder)), train_dataset=preferences(), processing_class=tokenizer
    )


def kto(model: Any, tokenizer: Any, folder: Path) -> Any:
    from trl import KTOConfig, KTOTrainer

    return KTOTrainer(
        model=model, args=KTOConfig(**options(folder)), train_dataset=judged(), processing_class=tokenizer
    )


def grpo(model: Any, tokenizer: Any, folder: Path) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(**options(folder), beta=0.1, num_generations=2, max_completion_length=4)
    return GRPOTrainer(
        model=model, args=arguments, train_dataset=prompts(), processing_class=tokenizer, reward_funcs=rewards
    )


def rloo(model: Any, tokenizer: Any, folder: Path) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    arguments = RLOOConfig(**options(folder), beta=0.1, num_generations=2, max_completion_length=4)
    return RLOOTrainer(
        model=model, args=arguments, train_dataset=prompts(), processing_class=tokenizer, reward_funcs=rewards
    )


@pytest.mark.parametrize("make", [dpo, kto, grpo, rloo])
def test_the_reference_is_the_trained_adapter(
    make: Callable[[Any, Any, Path], Any], trained: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained, pad_token="<unk>")
    tokens = torch.arange(1, 9)[None]
    before = base(tokens).logits
    model: Any = PeftModel.from_pretrained(base, str(trained / "adapter"), is_trainable=True)
    own = {name: p.detach().clone() for name, p in model.named_parameters() if ".default." in name}
    trainer = make(model, tokenizer, tmp_path)
    layers = [module for module in model.modules() if isinstance(module, MultiLoraLayer)]
    assert len(own) == 3 * len(layers)
    for name, parameter in own.items():
        reference = model.get_parameter(name.replace(".default.", ".ref."))
        assert torch.equal(reference, parameter), name
        assert not reference.requires_grad

    model.eval()
    with torch.no_grad():
        adapted = model(tokens).logits
        model.set_adapter("ref")
        assert torch.equal(model(tokens).logits, adapted)
        assert (adapted - before).abs().max() > 0.1
        model.set_adapter("default")

    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 1
    assert math.isfinite(losses[0]["loss"])
    if make is dpo:
        assert losses[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    if make is kto:  # the policy and its reference say the same
        assert losses[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    if make in (grpo, rloo):
        assert losses[0]["kl"] == pytest.approx(0, abs=1e-6)
    moved = [name for name, p in model.named_parameters() if name in own and not torch.equal(p, own[name])]
    assert moved
    for name, parameter in own.items():
        assert torch.equal(model.get_parameter(name.replace(".default.", ".ref.")), parameter), name
