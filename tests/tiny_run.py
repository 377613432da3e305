"""A model, its tokenizer and data, made in milliseconds: for tests of training from recipe to run folder."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


SPECIAL = ["<unk>", "<s>", "</s>"]
_TEXT = ["one two three four five six seven eight nine ten", "the sum of one and two is three and so on"] * 4


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: nothing is put before a text, no bos is added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, alphabet)


def sentencepiece_like_tokenizer(add_eos: bool = False) -> PreTrainedTokenizerFast:
    """As Llama 2's: a space is put before every text, and bos; unknown characters become bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = _trained(tokenizer, [], [f"<0x{byte:02X}>" for byte in range(256)])
    template = "<s> $A </s>" if add_eos else "<s> $A"
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return fast


def _trained(tokenizer: Tokenizer, alphabet: list[str], extra: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*SPECIAL, *extra], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    data = json.loads(tokenizer.to_str())
    if extra:  # the bytes are tokens of the vocabulary, not special ones
        data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in SPECIAL]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_model(folder: Path, **changes: Any) -> Path:
    """A random Llama of some ten thousand parameters with a byte-level tokenizer (which has no padding token)."""
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    LlamaForCausalLM(LlamaConfig(**(shape | changes))).save_pretrained(folder)
    return folder


def make_rows(path: Path, count: int = 40, seed: int = 0) -> Path:
    """Sums in words: {"q": "one two", "a": "three"}, of different lengths."""
    rng = random.Random(seed)
    words = _TEXT[0].split()
    rows = ({"q": " ".join(rng.choices(words, k=rng.randint(1, 4))), "a": rng.choice(words)} for _ in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_recipe(folder: Path, method: dict[str, Any] | None = None, **training: Any) -> Path:
    """A recipe of two tasks with its model and data in `folder`, output in `folder`/run. Twelve steps on one second."""
    if not (folder / "model").exists():
        make_model(folder / "model")
        make_rows(folder / "a.jsonl", 40, 0)
        make_rows(folder / "b.jsonl", 30, 1)
    recipe = {
        "model": str(folder / "model"),
        "method": method or {"name": "multilora", "r": 4, "num_loras": 2, "lora_dropout": 0.2},
        "tasks": {
            name: {
                "train": f"{folder}/{name}.jsonl",
                "prompt": f"{name} {{q}}:",
                "completion": " {a}",
                "rate": rate,
            }
            for name, rate in (("a", 2), ("b", 1))
        },
        "training": {
            "output": str(folder / "run"),
            "steps": 12,
            "batch_size": 4,
            "learning_rate": 0.01,
            "max_length": 64,
            "precision": "fp32",
            "save_every": 4,
            "log_every": 3,
            **training,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def undo(run: Path, step: int) -> None:
    """Make a finished run look as if it had been killed after the checkpoint of a step."""
    for weights in ("adapter", "model"):
        shutil.rmtree(run / weights, ignore_errors=True)
    (run / "results.json").unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    assert (run / "checkpoints" / f"checkpoint-{step}").is_dir()
