"""LoRA's arguments: every field of `LoraConfig`, at its default and at another value, is accepted or answered."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest
from peft import EvaConfig, LoraConfig, LoraRuntimeConfig, PeftConfig, TaskType
from peft.tuners.lora.config import (
    ArrowConfig,
    BdLoraConfig,
    CordaConfig,
    KasaConfig,
    LoraGAConfig,
    MontecloraConfig,
    VeloraConfig,
)

from multilora import InputError, MultiLoraConfig
from places import ROOT

OURS = {field.name for field in dataclasses.fields(MultiLoraConfig)}
PAGE = ROOT / "docs" / "lora_arguments.md"

# A value other than the default for each field. A PEFT with a new field fails here first.
OTHER: dict[str, Any] = {
    "task_type": "CAUSAL_LM",
    "peft_type": "LORA",
    "auto_mapping": {"base_model_class": "M"},
    "peft_version": "0.1",
    "base_model_name_or_path": "model",
    "revision": "main",
    "inference_mode": True,
    "r": 4,
    "target_modules": ["q_proj"],
    "exclude_modules": ["q_proj"],
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "fan_in_fan_out": True,
    "bias": "lora_only",
    "use_rslora": True,
    "modules_to_save": ["score"],
    "init_lora_weights": "pissa",
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {"q_proj": 4},
    "megatron_config": {"tensor_model_parallel_size": 1},
    "megatron_core": "megatron",
    "trainable_token_indices": [1],
    "loftq_config": {"loftq_bits": 4},
    "eva_config": EvaConfig(),
    "corda_config": CordaConfig(),
    "lora_ga_config": LoraGAConfig(),
    "use_dora": True,
    "velora_config": VeloraConfig(),
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "qalora_group_size": 32,
    "monteclora_config": MontecloraConfig(),
    "layer_replication": [(0, 2), (1, 3)],
    "runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=True),
    "lora_bias": True,
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "use_bdlora": BdLoraConfig(),
    "arrow_config": ArrowConfig(),
    "kasa_config": KasaConfig(),
    "ensure_weight_tying": True,
}
TOGETHER: dict[str, dict[str, Any]] = {  # what a field needs beside it
    "layers_pattern": {"layers_to_transform": [0], "target_modules": ["q_proj"]},
    "layers_to_transform": {"target_modules": ["q_proj"]},
}


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def answer(name: str, value: Any) -> str:
    try:
        MultiLoraConfig(**{name: value}, **TOGETHER.get(name, {}))
    except InputError as error:
        return str(error)
    return "accepted"


def table() -> str:
    lines = ["| argument | at LoRA's default | at another value |", "|---|---|---|"]
    for field in dataclasses.fields(LoraConfig):
        default, other = answer(field.name, default_of(field)), answer(field.name, OTHER[field.name])
        if other == "accepted" and field.name not in OURS:
            other = "accepted, without effect"
        lines.append(f"| `{field.name}` | {default} | {other} |")
    return "\n".join(lines)


def test_every_field_of_loras_has_another_value_here() -> None:
    fields = {field.name: default_of(field) for field in dataclasses.fields(LoraConfig)}
    assert OTHER.keys() == fields.keys()
    assert not [name for name, default in fields.items() if default == OTHER[name]]


def test_the_table_of_the_docs_is_what_happens() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert table() in text, f"docs/lora_arguments.md lacks this table:\n{table()}"


@pytest.mark.parametrize("field", dataclasses.fields(LoraConfig), ids=lambda field: field.name)
def test_loras_defaults_are_accepted_and_not_kept(field: dataclasses.Field[Any]) -> None:
    config = MultiLoraConfig(**{field.name: default_of(field)})
    assert vars(config).keys() == OURS
    if field.name not in OURS:
        assert config == MultiLoraConfig()


def test_all_of_loras_defaults_at_once() -> None:
    values = {field.name: default_of(field) for field in dataclasses.fields(LoraConfig)}
    config = MultiLoraConfig(**values)
    assert config == MultiLoraConfig(r=8, lora_alpha=8)


@pytest.mark.parametrize("name", sorted(OTHER.keys() - OURS))
def test_another_value_is_refused_with_a_remedy_or_has_no_effect(name: str) -> None:
    result = answer(name, OTHER[name])
    if result == "accepted":
        assert name in {"fan_in_fan_out", "megatron_core", "qalora_group_size"}
        assert MultiLoraConfig(**{name: OTHER[name]}) == MultiLoraConfig()
    else:
        assert result.startswith(f"{name}=")
        assert "is LoRA's alone: " in result
        assert len(result.partition("alone: ")[2]) > 30


@pytest.mark.parametrize("empty", [None, [], {}])
def test_empty_values_are_one(empty: Any) -> None:
    assert MultiLoraConfig(loftq_config=empty, target_parameters=empty) == MultiLoraConfig()


def test_rslora_s_remedy_gives_its_constant() -> None:
    with pytest.raises(InputError, match=r"Set lora_alpha=64 \(√16 · 16\)"):
        MultiLoraConfig(use_rslora=True, r=16, lora_alpha=16)
    with pytest.raises(InputError, match=r"Set lora_alpha=181\.019"):
        MultiLoraConfig(use_rslora=True)
    with pytest.raises(InputError, match="alpha_pattern for the layers of rank_pattern"):
        MultiLoraConfig(use_rslora=True, rank_pattern={"q_proj": 4})
    theirs, ours = LoraConfig(r=16, lora_alpha=16, use_rslora=True), MultiLoraConfig(r=16, lora_alpha=64)
    assert ours.lora_alpha is not None
    assert theirs.lora_alpha / theirs.r**0.5 == ours.lora_alpha / ours.r


def test_what_says_the_same_by_another_name() -> None:
    assert MultiLoraConfig(bias="lora_only") == MultiLoraConfig(bias="multilora_only")
    assert MultiLoraConfig(init_lora_weights=False) == MultiLoraConfig(init_weights=False)
    with pytest.raises(InputError, match="init_lora_weights=False is LoRA's alone"):
        MultiLoraConfig(init_lora_weights=False, init_weights=True)
    nothing: Any = None
    assert MultiLoraConfig(rank_pattern=nothing, alpha_pattern=nothing) == MultiLoraConfig()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_lora", "nearest: 'num_loras'"),
        ("lora_aplha", "nearest: 'lora_alpha'"),
        ("target_module", "nearest: 'target_modules'"),
        ("rank", "it is called r"),
        ("alpha", "it is called lora_alpha"),
        ("dropout", "it is called lora_dropout"),
        ("scaling_lr_ratio", r"multilora\.param_groups\(model, lr, scaling_lr_ratio=…\)"),
    ],
)
def test_mistyped_names(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"got an unexpected keyword argument '{name}'; .*{hint}") as caught:
        MultiLoraConfig(**{name: 1})
    assert isinstance(caught.value, TypeError)


def test_saved_files_have_our_fields_alone(tmp_path: Path) -> None:
    MultiLoraConfig(use_dora=False, fan_in_fan_out=True, use_rslora=False).save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text()).keys() == OURS


def test_a_file_of_a_later_version_loads_without_what_is_unknown(tmp_path: Path) -> None:
    config = MultiLoraConfig(r=4, target_modules=["q_proj"])
    config.save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"of_a_later_version": 1, "use_dora": False}))
    with pytest.warns(UserWarning, match=r"Unexpected keyword arguments \['of_a_later_version'"):
        assert PeftConfig.from_pretrained(str(tmp_path)) == config
    # What LoRA has a meaning for may not be dropped.
    file.write_text(json.dumps(values | {"target_parameters": ["experts.w1"]}))
    with pytest.raises(InputError, match="target_parameters="):
        PeftConfig.from_pretrained(str(tmp_path))


def test_it_is_a_dataclass_like_others() -> None:
    config = MultiLoraConfig(r=4, use_dora=False)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == dataclasses.replace(config) == config
    assert dataclasses.replace(config, r=8, use_rslora=False).r == 8
    assert set(inspect.signature(MultiLoraConfig).parameters) == OURS
    assert MultiLoraConfig(TaskType.CAUSAL_LM).task_type == "CAUSAL_LM"


def test_help_documents_every_field_with_its_default() -> None:
    text = re.sub(r"^ *\|", "", pydoc.render_doc(MultiLoraConfig, renderer=pydoc.plaintext), flags=re.MULTILINE)
    text = " ".join(text.split())
    for field in dataclasses.fields(MultiLoraConfig):
        default = default_of(field)
        assert f"{field.name} ({field.type}, default {default!r}): {' '.join(field.metadata['help'].split())}" in text
