"""MultiLoRA with TRL's SFTTrainer, unchanged but for the config's class.

python examples/with_trl.py MODEL OUT        MODEL: a folder or hub id of a causal language model
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from multilora import MultiLoraConfig

ROWS = [
    {"prompt": f"What is {a} plus {b}?\n", "completion": f"{a} plus {b} is {a + b}."}
    for a in range(8)
    for b in range(8)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()

    trainer = SFTTrainer(
        model=arguments.model,
        args=SFTConfig(
            output_dir=arguments.out,
            max_steps=10,
            per_device_train_batch_size=8,
            learning_rate=2e-3,
            logging_steps=5,
            report_to="none",
            bf16=False,  # SFTConfig turns it on by default
        ),
        train_dataset=Dataset.from_list(ROWS),
        peft_config=MultiLoraConfig(r=4, num_loras=3, task_type="CAUSAL_LM"),  # was: LoraConfig(r=12, ...)
    )
    trainer.train()
    trainer.save_model(arguments.out)


if __name__ == "__main__":
    main()
