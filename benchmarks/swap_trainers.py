"""The one-word swap in trainers: TRL's SFT (packed, assistant only), DPO and Reward; Trainer on a classifier.

    python -m benchmarks.swap_trainers --model SMOLLM2 --data FOLDER --out results.jsonl

Each trainer as it comes, with LoRA of rank n·r and with MultiLoRA, nothing else changed: learning rate 2e-4, 30 steps
of two rows, the trainer's own schedule. Measured: the trainer's evaluation loss on held-out rows before and after.
Pairs are GSM8K's questions with their answer and with another question's; the classifier's rows are RTE's. FOLDER has
`gsm8k` and `superglue/RTE`. One line of JSON per run; runs that are in the file are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.swap import config_of

LENGTH, HELD_OUT = 96, 24
# SmolLM2's own template has no marks for the assistant's part.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["lora@48", "multilora@3x16"])
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    done = {_key(json.loads(line)) for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    for seed in args.seeds:
        for trainer in args.trainers:
            for method in args.methods:
                wanted = {"trainer": trainer, "method": method, "rate": args.rate, "seed": seed, "steps": args.steps}
                if _key(wanted) not in done:
                    record = wanted | run(args.model, args.data, trainer, method, args.rate, seed, args.steps)
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(json.dumps(record), flush=True)


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record[name] for name in ("trainer", "method", "rate", "seed", "steps")])


def run(model: str, data: Path, name: str, method: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Train once: the evaluation loss before and after."""
    config = config_of(method)
    config.task_type = "SEQ_CLS" if name in ("reward", "classifier") else "CAUSAL_LM"
    torch.manual_seed(seed)
    with TemporaryDirectory() as folder:
        common = {
            "output_dir": folder,
            "max_steps": steps,
            "learning_rate": rate,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 4,
            "seed": seed,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 5,
            "use_cpu": True,
            "bf16": False,
        }
        trainer = TRAINERS[name](model, data, config, common)
        before = trainer.evaluate()["eval_loss"]
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
        return {"before": before, "after": trainer.evaluate()["eval_loss"], "cpu_seconds": round(seconds)}


def _gsm8k(data: Path, split: str, count: int) -> list[dict[str, str]]:
    lines = (data / "gsm8k" / f"{split}.jsonl").read_text().splitlines()[: count + 1]
    return [json.loads(line) for line in lines]


def _sft(packed: bool) -> Callable[..., Any]:
    def make(model: str, data: Path, config: Any, common: dict[str, Any]) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = TEMPLATE

        def dataset(split: str, count: int) -> Dataset:
            rows = _gsm8k(data, split, count)[:count]
            if packed:
                return Dataset.from_list([{"text": f"{row['question']}\n{row['answer']}"} for row in rows])
            roles = (("user", "question"), ("assistant", "answer"))
            return Dataset.from_list(
                [{"messages": [{"role": role, "content": row[key]} for role, key in roles]} for row in rows]
            )

        own = {"packing": True} if packed else {"assistant_only_loss": True}
        return SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=SFTConfig(max_length=LENGTH if packed else 2 * LENGTH, **own, **common),
            train_dataset=dataset("train", 120),
            eval_dataset=dataset("test", HELD_OUT),
            processing_class=tokenizer,
            peft_config=config,
        )

    return make


def _pairs(data: Path, split: str, count: int) -> Dataset:
    rows = _gsm8k(data, split, count)
    return Dataset.from_list(
        [
            {"prompt": f"{row['question'][-200:]}\n", "chosen": row["answer"][:150], "rejected": other["answer"][:150]}
            for row, other in itertools.pairwise(rows)
        ]
    )


def _dpo(model: str, data: Path, config: Any, common: dict[str, Any]) -> Any:
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=DPOConfig(max_length=2 * LENGTH, **common),
        train_dataset=_pairs(data, "train", 80),
        eval_dataset=_pairs(data, "test", HELD_OUT),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=config,
    )


def _reward(model: str, data: Path, config: Any, common: dict[str, Any]) -> Any:
    return RewardTrainer(
        model=_classifier_model(model, 1),
        args=RewardConfig(max_length=2 * LENGTH, **common),
        train_dataset=_pairs(data, "train", 80),
        eval_dataset=_pairs(data, "test", HELD_OUT),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=config,
    )


def _classifier_model(model: str, labels: int) -> Any:
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=labels, dtype=torch.float32)
    base.config.pad_token_id = base.config.pad_token_id or 2
    return base


def _classifier(model: str, data: Path, config: Any, common: dict[str, Any]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model)

    def dataset(split: str, count: int) -> Dataset:
        lines = (data / "superglue" / "RTE" / f"{split}.jsonl").read_text().splitlines()[:count]
        rows = [json.loads(line) for line in lines]
        encoded = [
            tokenizer(f"{row['premise']}\n{row['hypothesis']}", max_length=LENGTH, truncation=True) for row in rows
        ]
        labels = [int(row["label"] == "entailment") for row in rows]
        return Dataset.from_list([{**one, "labels": label} for one, label in zip(encoded, labels, strict=True)])

    return Trainer(
        model=get_peft_model(_classifier_model(model, 2), config),
        args=TrainingArguments(**common),
        train_dataset=dataset("train", 120),
        eval_dataset=dataset("val", 2 * HELD_OUT),
        data_collator=DataCollatorWithPadding(tokenizer),
    )


TRAINERS: dict[str, Callable[..., Any]] = {
    "sft_packed": _sft(packed=True),
    "sft_assistant": _sft(packed=False),
    "dpo": _dpo,
    "reward": _reward,
    "classifier": _classifier,
}


if __name__ == "__main__":
    main()
