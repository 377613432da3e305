"""The published LLaMA shapes, and methods, for tests that need no weights."""

from __future__ import annotations

from typing import Any

from multilora.recipe import FullMethod, LoraMethod, ModelSection, MultiLoraMethod

# hidden, MLP, layers, heads of the published models
LLAMA = {
    "7b": (4096, 11008, 32, 32),
    "13b": (5120, 13824, 40, 40),
    "30b": (6656, 17920, 60, 52),
    "65b": (8192, 22016, 80, 64),
}


def llama(size: str, **changes: Any) -> ModelSection:
    hidden, mlp, layers, heads = LLAMA[size]
    shape = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    }
    return ModelSection(path="nobody/not-at-hand", shape=shape | changes)


def method(name: str, **options: Any) -> MultiLoraMethod | LoraMethod | FullMethod:
    cls = {"multilora": MultiLoraMethod, "lora": LoraMethod, "full": FullMethod}[name]
    return cls.model_validate({"name": name, **options})
