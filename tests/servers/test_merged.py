"""A merged model as servers read it: a plain Transformers checkpoint, by a reader of bytes and by mlx-lm."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from adapter_files import assert_same_logits, load, logits, save_adapter, tokens
from multilora import MultiLoraConfig
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
from tiny_run import make_model

SIZES = {"F32": 4, "BF16": 2, "F16": 2}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(params=["10GB", "20KB"], ids=["one file", "shards"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "whole"))
    model.save_pretrained(tmp_path / "base", max_shard_size=request.param)
    for name in TOKENIZER_FILES:
        (tmp_path / "base" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    config = MultiLoraConfig(r=4, num_loras=3, lora_alpha=6, init_weights=False)
    save_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter", config)
    return tmp_path / "adapter"


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tensor's entry, from the bytes, with what the format demands checked."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        assert header.pop("__metadata__")["format"] == "pt"  # transformers refuses files without it
        end = 0
        for name, entry in header.items():
            begin, stop = entry["data_offsets"]
            assert begin == end
            assert stop - begin == math.prod(entry["shape"]) * SIZES[entry["dtype"]]
            assert name not in found
            found[name], end = entry | {"file": file.name}, stop
        assert len(content) == 8 + size + end
    return found


@pytest.mark.parametrize(("dtype", "code"), [(None, "F32"), ("bfloat16", "BF16")])
def test_it_is_a_plain_checkpoint(dtype: str | None, code: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapters(base, [adapter], tmp_path / "out", MergeOptions(dtype=dtype))
    ours, theirs = headers(tmp_path / "out"), headers(base)
    assert {name: entry["shape"] for name, entry in ours.items()} == {n: entry["shape"] for n, entry in theirs.items()}
    assert {entry["dtype"] for entry in ours.values()} == {code}
    assert not [name for name in ours if "lora" in name or "base_layer" in name]
    if len({entry["file"] for entry in ours.values()}) > 1:
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {name: entry["file"] for name, entry in ours.items()}
    config, base_config = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", base))
    assert config.pop("dtype") == (dtype or base_config["dtype"])
    base_config.pop("dtype")
    assert config == base_config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not list((tmp_path / "out").glob("adapter_*"))
    for name in TOKENIZER_FILES:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("the sum of one and two").ids


@pytest.mark.skipif(not importlib.util.find_spec("mlx_lm"), reason="needs mlx-lm: pip install 'mlx[cpu]' mlx-lm")
def test_mlx_lm_computes_the_adapted_model_s_logits(base: Path, adapter: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    merge_adapters(base, [adapter], tmp_path / "out")
    adapted = load(AutoModelForCausalLM.from_pretrained(base), adapter)
    computed = load_model(tmp_path / "out")[0](mx.array(tokens(adapted).numpy())).astype(mx.float32)
    assert_same_logits(torch.from_numpy(np.array(computed)), logits(adapted))
