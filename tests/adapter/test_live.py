"""Exporting the adapter of a model in memory: the same file as of the folder that it is saved as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from adapter_files import assert_same_logits, load, logits, lora_config, save_adapter
from multilora import InputError, MultiLoraConfig, export_lora
from multilora.adapter.export.mlx import MLX_WEIGHTS_FILE, export_mlx
from multilora.adapter.file import WEIGHTS_FILE

Make = Callable[..., PreTrainedModel]


def config(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "lora_alpha": 6, "init_weights": False} | arguments))


@pytest.mark.parametrize("settings", [config(), config(scaling="none"), lora_config()])
def test_a_live_model_exports_as_its_folder_does(
    make_llama: Make, tmp_path: Path, settings: MultiLoraConfig | LoraConfig
) -> None:
    adapted = save_adapter(make_llama(), tmp_path / "saved", settings)
    model = load(make_llama(), tmp_path / "saved")
    export_lora(model, tmp_path / "live")
    export_lora(tmp_path / "saved", tmp_path / "folder")
    for file in (WEIGHTS_FILE, "adapter_config.json"):
        assert (tmp_path / "live" / file).read_bytes() == (tmp_path / "folder" / file).read_bytes()
    assert_same_logits(logits(load(make_llama(), tmp_path / "live")), adapted)
    model.merge_adapter()  # the adapter is still there
    export_lora(model, tmp_path / "merged")
    assert (tmp_path / "merged" / WEIGHTS_FILE).read_bytes() == (tmp_path / "live" / WEIGHTS_FILE).read_bytes()


def test_a_model_that_transformers_loaded_the_adapter_into(make_llama: Make, tmp_path: Path) -> None:
    adapted = save_adapter(make_llama(), tmp_path / "saved", config())
    model = make_llama()
    model.load_adapter(str(tmp_path / "saved"))
    export_lora(model, tmp_path / "live")
    assert_same_logits(logits(load(make_llama(), tmp_path / "live")), adapted)


def test_one_of_several_adapters(make_llama: Make, tmp_path: Path) -> None:
    adapted = save_adapter(make_llama(), tmp_path / "saved", config())
    model = get_peft_model(make_llama(), config(r=2))
    model.load_adapter(str(tmp_path / "saved"), "other")
    export_lora(model, tmp_path / "other", adapter_name="other")
    assert_same_logits(logits(load(make_llama(), tmp_path / "other")), adapted)
    export_lora(model, tmp_path / "active")
    model.set_adapter("other")
    export_lora(model, tmp_path / "now")
    weights = {name: (tmp_path / name / WEIGHTS_FILE).read_bytes() for name in ("other", "active", "now")}
    assert weights["other"] == weights["now"] != weights["active"]


def test_mlx_takes_a_live_model(make_llama: Make, tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    save_adapter(make_llama(), tmp_path / "saved", config())
    model = load(make_llama(), tmp_path / "saved")
    export_mlx(model, tmp_path / "live", base=str(tmp_path / "base"))
    export_mlx(tmp_path / "saved", tmp_path / "folder", base=str(tmp_path / "base"))
    files = [(tmp_path / name / MLX_WEIGHTS_FILE).read_bytes() for name in ("live", "folder")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("make", "name", "match"),
    [
        (lambda model: model, "defualt", "adapter_name='defualt': the model has 'default'; nearest: 'default'"),
        (lambda model: model.merge_and_unload(), None, r"LlamaForCausalLM has no adapters.*merge_and_unload"),
    ],
)
def test_what_is_not_there_is_refused(
    make_llama: Make, tmp_path: Path, make: Callable[[PeftModel], Any], name: str | None, match: str
) -> None:
    model = make(get_peft_model(make_llama(), config()))
    with pytest.raises(InputError, match=match):
        export_lora(model, tmp_path / "out", adapter_name=name)
    assert not (tmp_path / "out").exists()


def test_a_name_for_a_folder_and_several_active_adapters(make_llama: Make, tmp_path: Path) -> None:
    save_adapter(make_llama(), tmp_path / "saved", config())
    with pytest.raises(InputError, match=r"adapter_name=.default. is for a model with several adapters"):
        export_lora(tmp_path / "saved", tmp_path / "out", adapter_name="default")
    model = get_peft_model(make_llama(), config())
    model.add_adapter("second", config())
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(InputError, match=r"2 adapters are active .*adapter_name=…, one of 'default', 'second'"):
        export_lora(model, tmp_path / "out")
