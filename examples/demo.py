"""The demo of `make demo`: a miniature language model is trained from nothing, then adapted to two tasks at once.

    python examples/demo.py FOLDER

Everything is generated here: words, rows, tokenizer, model. It shows the whole path (train a base model in full, train
one MultiLoRA adapter on a mixture, export it to plain LoRA) in a few minutes on two cores. It proves nothing about
quality: the model has half a million parameters and has never seen a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

WORDS = [
    "amber", "basil", "cedar", "delta", "ember", "fable", "grove", "haven", "ivory",
    "jolly", "kite", "lemon", "maple", "nectar", "ocean", "pearl", "quartz", "river",
    "sable", "tulip", "umber", "velvet", "willow", "yarrow", "zephyr",
]  # fmt: skip
ROWS_PER_TASK = 4000
TESTED_ROWS = 64
Row = dict[str, str]


def rows(task: str, seed: int, held_out: bool) -> Iterator[Row]:
    """Endless rows {prompt, completion} of one task; a tenth of all prompts, told by their checksum, is held out."""
    rng = random.Random(f"{task} {seed}")
    while True:
        words = rng.sample(WORDS, rng.randint(2, 5))
        a, b = rng.randrange(30), rng.randrange(30)
        row = {
            "copy": {"prompt": f"Repeat: {' '.join(words)}", "completion": " ".join(words)},
            "count": {"prompt": f"How many words: {' '.join(words)}", "completion": str(len(words))},
            "last": {"prompt": f"Last word: {' '.join(words)}", "completion": words[-1]},
            "add": {"prompt": f"Add: {a} + {b}", "completion": str(a + b)},
        }[task]
        if (zlib.crc32(row["prompt"].encode()) % 10 == 0) is held_out:
            yield row


def make_data(folder: Path) -> None:
    folder.mkdir(parents=True)
    for task in ("copy", "count", "last", "add"):
        source = rows(task, 0, held_out=False)
        text = "".join(json.dumps(next(source)) + "\n" for _ in range(ROWS_PER_TASK))
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")


def make_model(folder: Path, data: Path) -> None:
    """A random Llama of about half a million parameters, and a byte-level tokenizer trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<bos>", "<eos>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path) for path in sorted(data.glob("*.jsonl"))], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=128
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def quiet_transformers() -> None:
    """No progress bars of loading and saving, and no notes for those who maintain the libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)


def multilora(*arguments: str) -> None:
    print(f"\n$ multilora {' '.join(arguments)}", flush=True)
    script = Path(sys.executable).with_name("multilora")  # of this virtual environment, on the PATH or not
    subprocess.run([str(script), *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="optimizer steps of both trainings, instead of the recipes' own")
    arguments = parser.parse_args()
    folder = arguments.folder
    if folder.is_dir() and not (folder / "data").is_dir() and any(folder.iterdir()):
        parser.error(f"folder: {folder} is not empty and not of an earlier demo; name another")
    shutil.rmtree(folder, ignore_errors=True)

    quiet_transformers()
    make_data(folder / "data")
    make_model(folder / "model", folder / "data")
    os.environ["DEMO"] = str(folder)
    recipes = Path(__file__).resolve().parents[1] / "recipes"
    steps = [] if arguments.steps is None else ["--set", f"training.steps={arguments.steps}"]
    multilora("train", str(recipes / "demo-base.yaml"), *steps)
    multilora("train", str(recipes / "demo.yaml"), *steps)
    multilora("export", str(folder / "run" / "adapter"), str(folder / "lora"))
    show_answers(folder)
    print(f"\nThe run is in {folder / 'run'}, the exported LoRA in {folder / 'lora'}.")


def show_answers(folder: Path) -> None:
    """Held-out prompts, answered by the base model and with the adapter, as plain LoRA from the export."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(folder / "base" / "model").eval()
    model = PeftModel.from_pretrained(base, folder / "lora").eval()

    def answers(prompts: list[str]) -> list[str]:
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.no_grad():
            made = model.generate(**batch, max_new_tokens=8, do_sample=False)
        return tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    print(f"\nright answers on {TESTED_ROWS} held-out prompts of each task, base model and with the adapter:")
    for task in ("last", "add"):
        source = rows(task, 1, held_out=True)
        tested = [next(source) for _ in range(TESTED_ROWS)]
        prompts = [row["prompt"] + "\n" for row in tested]
        with model.disable_adapter():
            before = answers(prompts)
        after = answers(prompts)
        right = [
            sum(a.strip() == row["completion"] for a, row in zip(made, tested, strict=True)) for made in (before, after)
        ]
        print(f"  {task:5} {right[0]:3} -> {right[1]:3}   {tested[0]['prompt']!r}: {before[0]!r} -> {after[0]!r}")


if __name__ == "__main__":
    main()
