"""llama.cpp: its converters, and logits of the engine itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_run import sentencepiece_like_tokenizer

SOURCES = os.environ.get("MULTILORA_LLAMA_CPP", "")
MISSING = (
    "needs llama.cpp: MULTILORA_LLAMA_CPP=<its sources>, pip install llama-cpp-python"
    if not (SOURCES and importlib.util.find_spec("llama_cpp"))
    else ""
)
PROMPT = [1, 20, 31, 44, 9, 65, 70, 33, 12]


def make_base(folder: Path) -> Path:
    """A small random Llama with a tokenizer of a kind that the converter knows."""
    tokenizer = sentencepiece_like_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=3, max_position_embeddings=64, tie_word_embeddings=False, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def convert(script: str, *arguments: str | Path, out: Path) -> Path:
    """Run a converter of llama.cpp in fp32."""
    command = [sys.executable, f"{SOURCES}/{script}", *map(str, arguments), "--outtype", "f32", "--outfile", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def logits(model: Path, lora: Path | None = None) -> Tensor:
    """(tokens of PROMPT, vocabulary). Keys and values are cached in fp32."""
    from llama_cpp import Llama

    engine = Llama(
        str(model),
        n_ctx=64,
        logits_all=True,
        lora_path=None if lora is None else str(lora),
        n_threads=1,
        n_threads_batch=1,
        type_k=0,
        type_v=0,
        verbose=False,
    )
    engine.eval(PROMPT)
    return torch.from_numpy(engine.scores[: len(PROMPT)].copy())
