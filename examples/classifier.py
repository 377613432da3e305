"""A classifier with transformers' Trainer: the adapter and a new head, and learning rates by kind.

python examples/classifier.py MODEL OUT        MODEL: a folder or hub id of a language model
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from multilora import MultiLoraConfig, param_groups

TEXTS = [(f"{a} is less than {b}", int(a < b)) for a in range(8) for b in range(8) if a != b]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    base = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    # SEQ_CLS: PEFT trains and saves the head with the adapter, as it does for LoRA.
    model = get_peft_model(base, MultiLoraConfig(r=4, num_loras=3, task_type="SEQ_CLS"))

    optimizer = torch.optim.AdamW(param_groups(model, 1e-3, weight_decay=0.01))  # the scale has no decay
    trainer = Trainer(
        model=model,
        args=TrainingArguments(arguments.out, max_steps=20, per_device_train_batch_size=8, report_to="none"),
        train_dataset=Dataset.from_list([{**tokenizer(text), "labels": label} for text, label in TEXTS]),
        data_collator=DataCollatorWithPadding(tokenizer),
        optimizers=(optimizer, None),
    )
    trainer.train()
    trainer.save_model(arguments.out)

    loaded = AutoPeftModelForSequenceClassification.from_pretrained(arguments.out, num_labels=2).eval()
    batch = tokenizer(["1 is less than 5"], return_tensors="pt")
    with torch.no_grad():
        trained = model.eval()(**batch.to(model.device)).logits.cpu()
        error = (loaded(**batch.to(loaded.device)).logits.cpu() - trained).abs().max().item()
    print(f"logits after loading differ by {error:.1e}")


if __name__ == "__main__":
    main()
