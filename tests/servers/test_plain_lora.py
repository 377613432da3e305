"""A plain LoRA as servers read it: their rules hold for every export, and what they compute is the adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel

from adapter_files import load, lora_config, save_adapter
from multilora import MultiLoraConfig, export_lora
from multilora.adapter.export.peft import FORMAT
from multilora.adapter.portable import vllm_max_lora_rank
from servers import rules

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def base(make_llama: Make, tmp_path: Path) -> Path:
    make_llama(tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapt(base: Path, folder: Path, config: MultiLoraConfig | LoraConfig) -> Path:
    save_adapter(AutoModelForCausalLM.from_pretrained(base), folder, config)
    return folder


def multilora(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "lora_alpha": 6, "init_weights": False} | arguments))


def deltas(base: Path, adapter: Path) -> dict[str, rules.Array]:
    """As PEFT computes them."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().numpy()
        for name, module in load(AutoModelForCausalLM.from_pretrained(base), adapter).named_modules()
        if hasattr(module, "get_delta_weight")
    }


def same(computed: dict[str, rules.Array], expected: dict[str, rules.Array]) -> bool:
    return computed.keys() == expected.keys() and all(
        np.abs(computed[name] - delta).max() <= 1e-6 * np.abs(delta).max() for name, delta in expected.items()
    )


CONFIGS = [
    multilora(),
    multilora(r=7, scaling="scalar", target_modules=["q_proj", "v_proj"]),
    multilora(r=32, scaling="none"),
    multilora(rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 5}, alpha_pattern={"up_proj": 9}),
    multilora(target_modules=["o_proj", "gate_proj", "down_proj"], layers_to_transform=[1]),
    lora_config(use_rslora=True, rank_pattern={"q_proj": 7}, alpha_pattern={"k_proj": 3}),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_server_computes_from_an_export_is_the_adapter(config: Any, base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", config)
    exact, expected = export_lora(adapter, tmp_path / "exact"), deltas(base, adapter)
    cut = export_lora(adapter, tmp_path / "cut", rank=3)
    for report, wanted in ((exact, expected), (cut, deltas(base, tmp_path / "cut"))):
        flag = vllm_max_lora_rank(report.rank)
        assert flag
        for computed in (
            rules.vllm(report.out_dir, flag),
            rules.sglang(report.out_dir),
            rules.llama_cpp(report.out_dir),
        ):
            assert same(computed, wanted)


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"use_rslora": True}, rules.sglang),
        ({"use_rslora": True}, rules.llama_cpp),
        ({"alpha_pattern": {"q_proj": 40}}, lambda adapter: rules.vllm(adapter, 16)),
        ({"alpha_pattern": {"q_proj": 40}}, rules.sglang),
        ({"alpha_pattern": {"q_proj": 40}}, rules.llama_cpp),
        ({"rank_pattern": {"q_proj": 7}, "use_rslora": True}, rules.llama_cpp),
    ],
)
def test_the_same_adapter_without_the_export_is_computed_wrongly(
    changes: dict[str, Any], read: Callable[[Path], dict[str, rules.Array]], base: Path, tmp_path: Path
) -> None:
    """Which is what the portable form is for."""
    adapter = adapt(base, tmp_path / "adapter", lora_config(**changes))
    assert not same(read(adapter), deltas(base, adapter))
    export_lora(adapter, tmp_path / "out")
    assert same(read(tmp_path / "out"), deltas(base, adapter))


def test_without_the_export_ranks_that_differ_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", lora_config(rank_pattern={"q_proj": 7}))
    with pytest.raises(rules.RefusedError, match="buffer shape"):
        rules.sglang(adapter)


def test_a_flag_below_the_rank_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", multilora(r=6))
    assert export_lora(adapter, tmp_path / "out").rank == 32
    with pytest.raises(rules.RefusedError, match="greater than max_lora_rank 16"):
        rules.vllm(tmp_path / "out", 16)


@pytest.mark.parametrize(
    ("targets", "missing"),
    [
        (["q_proj"], "self_attn has no v_proj"),
        (["q_proj", "k_proj"], "self_attn has no v_proj"),
        (["v_proj", "down_proj"], "self_attn has no q_proj"),
        (["k_proj"], "self_attn has no q_proj, v_proj"),
        (["up_proj"], "mlp has no gate_proj"),
        (["q_proj", "v_proj"], None),
        (["gate_proj", "o_proj"], None),
        ("all-linear", None),
    ],
)
def test_what_sglang_would_lose_is_said(targets: Any, missing: str | None, base: Path, tmp_path: Path) -> None:
    adapter = adapt(base, tmp_path / "adapter", multilora(target_modules=targets))
    line = dict(FORMAT.server_lines(export_lora(adapter, tmp_path / "out")))["SGLang"]
    if missing is None:
        assert line.startswith("python -m sglang.launch_server")
        assert same(rules.sglang(tmp_path / "out"), deltas(base, adapter))
    else:
        assert line.startswith("none: ")
        assert missing in line
        with pytest.raises(rules.RefusedError, match="without"):
            rules.sglang(tmp_path / "out")
