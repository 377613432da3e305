"""What a model's folder has besides weights: configuration, tokenizer, chat template, licence, its own code."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from multilora.base.weights import INDEX_FILE
from multilora.storage.safetensors import dtype_name, dtype_of

# By name: a model's folder may hold training states, weights in other formats and adapters, which belong to the base.
PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",  # SentencePiece
    "*.tiktoken",
    "chat_template.*",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "configuration_*.py",  # code that the configuration names (auto_map)
    "modeling_*.py",
    "tokenization_*.py",
    "processing_*.py",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
_TEMPLATES = "additional_chat_templates"
_DTYPE_KEYS = ("dtype", "torch_dtype")


def copy_side_files(base: Path, out: Path, dtype: torch.dtype | None, *, untied: bool) -> None:
    """Copy them, the configuration last and with the result's dtype.

    Args:
        base: the base model's folder.
        out: the folder of the result.
        dtype: of all floating-point tensors; None: as in the base model.
        untied: the result's embeddings and output layer are two tensors.
    """
    names = side_files(base)
    for name in names:
        if name != "config.json":
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, out / name)
    text = (base / "config.json").read_text(encoding="utf-8")
    if dtype is not None or untied:
        config = cast(dict[str, Any], json.loads(text))
        if dtype is not None:
            _set_dtype(config, dtype)
            if not any(key in config for key in _DTYPE_KEYS):
                config["dtype"] = dtype_name(dtype)
        if untied:
            _untie(config)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")


def side_files(base: Path) -> list[str]:
    """Their names, relative to the base model's folder."""
    names = [path.name for path in base.iterdir() if path.is_file() and _is_wanted(path.name)]
    return sorted(names) + sorted(f"{_TEMPLATES}/{path.name}" for path in (base / _TEMPLATES).glob("*.jinja"))


def write_index(base: Path, out: Path, places: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Write the index of a model of several shards: tensor to file, and the bytes of all tensors."""
    raw = cast(dict[str, Any], json.loads((base / INDEX_FILE).read_text(encoding="utf-8")))
    metadata = {**cast(dict[str, Any], raw.get("metadata") or {}), "total_size": sum(sizes.values())}
    text = json.dumps({"metadata": metadata, "weight_map": dict(sorted(places.items()))}, indent=2)
    (out / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def _is_wanted(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS)


def _set_dtype(config: dict[str, Any], dtype: torch.dtype) -> None:
    """In the configurations inside (text_config and the like), too; "auto" and the like stay."""
    for key, value in config.items():
        if isinstance(value, dict):
            _set_dtype(cast(dict[str, Any], value), dtype)
        elif key in _DTYPE_KEYS and isinstance(value, str) and _is_dtype(value):
            config[key] = dtype_name(dtype)


def _is_dtype(name: str) -> bool:
    try:
        dtype_of(name)
    except ValueError:
        return False
    return True


def _untie(config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = False
    for value in config.values():
        if isinstance(value, dict) and "tie_word_embeddings" in value:
            value["tie_word_embeddings"] = False
