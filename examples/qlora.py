"""QLoRA's way: a base model in 4 bits, MultiLoRA on top, TRL's SFTTrainer. Needs bitsandbytes.

python examples/qlora.py MODEL OUT        MODEL: a folder or hub id of a causal language model
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from multilora import MultiLoraConfig

ROWS = [{"prompt": f"What is {a} plus {b}?\n", "completion": f"It is {a + b}."} for a in range(6) for b in range(6)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()

    base = AutoModelForCausalLM.from_pretrained(
        arguments.model,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        dtype=torch.bfloat16,
    )
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=arguments.out,
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rate=2e-4,
            report_to="none",
            bf16=False,
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        peft_config=MultiLoraConfig(r=4, num_loras=3, task_type="CAUSAL_LM"),  # was: LoraConfig(r=12, ...)
    )
    trainer.train()
    trainer.save_model(arguments.out)

    scales = [p for name, p in trainer.model.named_parameters() if "multilora_scaling" in name]
    kinds = sorted({str(scale.dtype) for scale in scales})
    print(
        f"{sum(bool((s != 0).any()) for s in scales)} of {len(scales)} scales have left zero; TRL keeps them in {kinds}"
    )


if __name__ == "__main__":
    main()
