"""SFT, then DPO on the adapter that SFT trained: TRL takes the trained adapter as the reference.

python examples/dpo_on_a_trained_adapter.py MODEL OUT        MODEL: a folder or hub id of a causal language model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from multilora import MultiLoraConfig

SUMS = [(a, b) for a in range(6) for b in range(6)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    options = {"max_steps": 6, "per_device_train_batch_size": 4, "report_to": "none", "bf16": False, "logging_steps": 1}

    sft = SFTTrainer(
        model=arguments.model,
        args=SFTConfig(output_dir=str(arguments.out / "sft"), learning_rate=2e-4, **options),
        train_dataset=Dataset.from_list([{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a, b in SUMS]),
        peft_config=MultiLoraConfig(r=4, num_loras=3, task_type="CAUSAL_LM"),  # was: LoraConfig(r=12, ...)
    )
    sft.train()
    sft.save_model(str(arguments.out / "sft"))

    base = AutoModelForCausalLM.from_pretrained(arguments.model)
    model = PeftModel.from_pretrained(base, str(arguments.out / "sft"), is_trainable=True)
    dpo = DPOTrainer(
        model=model,  # no ref_model: TRL adds an adapter "ref" and copies the trained one into it
        args=DPOConfig(output_dir=str(arguments.out / "dpo"), learning_rate=2e-5, **options),
        train_dataset=Dataset.from_list(
            [{"prompt": f"{a} + {b} =", "chosen": f" {a + b}", "rejected": f" {a + b + 1}"} for a, b in SUMS]
        ),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
    )
    dpo.train()
    losses = [entry["loss"] for entry in dpo.state.log_history if "loss" in entry]
    print(f"first DPO loss {losses[0]:.4f} (ln 2 = 0.6931: the reference is the adapter that SFT trained)")
    dpo.save_model(str(arguments.out / "dpo"))


if __name__ == "__main__":
    main()
