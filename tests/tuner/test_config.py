"""The config refuses what cannot work, naming field, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig

from multilora import InputError, MultiLoraConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1; got 0"),
        ({"r": 2.5}, "r must be an integer of at least 1; got 2.5"),
        ({"r": True}, "r must be an integer of at least 1; got True"),
        ({"num_loras": -1}, "num_loras must be an integer of at least 1; got -1"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] must be an integer of at least 1; got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be a positive number, or None for each module's own r; got 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a positive number"),
        ({"alpha_pattern": {"q_proj": "8"}}, r"alpha_pattern\['q_proj'\] must be a positive number.*got '8'"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\); got 1.0"),
        ({"lora_dropout": float("nan")}, "lora_dropout must be in"),
        ({"scaling": "vectr"}, "scaling must be one of 'vector', 'scalar', 'none'; got 'vectr'; nearest: 'vector'"),
        ({"scaling": None}, "scaling must be one of .*; got None"),
        ({"init_weights": "gausian"}, "init_weights must be one of .*got 'gausian'; nearest: 'gaussian'"),
        ({"init_weights": 1}, "init_weights must be one of .*got 1"),
        ({"bias": "some"}, "bias must be one of 'none', 'all', 'multilora_only'; got 'some'"),
        ({"init_weights": "lora"}, "init_weights='lora' .* needs scaling='none'; got scaling='vector'"),
        (
            {"layers_to_transform": [0], "target_modules": ".*q"},
            "layers_to_transform=.0. needs target_modules",
        ),
        ({"target_modules": ["a"], "layers_pattern": "h"}, "layers_pattern='h' needs layers_to_transform as well"),
        ({"task_type": "NONSENSE"}, "Invalid task type"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MultiLoraConfig(**arguments)
    assert isinstance(caught.value, InputError) or "task_type" in arguments


def test_random_init_without_scale_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="differs from the base model from the first step"):
        MultiLoraConfig(scaling="none", init_weights="gaussian")


def test_defaults_are_the_documented_ones() -> None:
    config = MultiLoraConfig()
    assert (config.r, config.num_loras, config.lora_alpha, config.scaling) == (32, 3, None, "vector")
    assert config.target_modules == "all-linear"
    assert MultiLoraConfig(target_modules=None).target_modules == "all-linear"


def test_every_field_says_what_it_does() -> None:
    own = set(MultiLoraConfig.__dataclass_fields__) - set(PeftConfig.__dataclass_fields__)
    for name in own:
        assert len(MultiLoraConfig.__dataclass_fields__[name].metadata["help"]) > 20, name


@given(
    r=st.integers(1, 64),
    num_loras=st.integers(1, 8),
    lora_alpha=st.none() | st.floats(0.1, 64),
    scaling=st.sampled_from(["vector", "scalar", "none"]),
    targets=st.just("all-linear") | st.lists(st.sampled_from(["q_proj", "k_proj", "up_proj"]), min_size=1),
)
def test_save_and_load_round_trips(
    tmp_path_factory: pytest.TempPathFactory, r: int, num_loras: int, lora_alpha: Any, scaling: Any, targets: Any
) -> None:
    folder = tmp_path_factory.mktemp("config")
    config = MultiLoraConfig(
        r=r, num_loras=num_loras, lora_alpha=lora_alpha, scaling=scaling, target_modules=targets, task_type="CAUSAL_LM"
    )
    config.save_pretrained(str(folder))
    assert PeftConfig.from_pretrained(str(folder)) == config


def test_saved_file_is_the_same_for_the_same_config(tmp_path: Path) -> None:
    for i, names in enumerate((["q_proj", "k_proj", "up_proj"], ["up_proj", "q_proj", "k_proj"])):
        MultiLoraConfig(target_modules=names).save_pretrained(str(tmp_path / str(i)))
    texts = {path.read_text() for path in tmp_path.glob("*/adapter_config.json")}
    assert len(texts) == 1
