"""The base model's structure: from its own configuration, or from the shape in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_shapes import llama
from multilora.base.shape import base_structure
from multilora.errors import InputError
from multilora.recipe import ModelSection
from tiny_run import make_model


def test_a_model_at_hand_is_preferred_and_must_agree(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", hidden_size=32)
    assert base_structure(ModelSection(path=str(folder)))[1] == "config.json"
    agreeing = {"model_type": "llama", "hidden_size": 32}
    model, source = base_structure(ModelSection(path=str(folder), shape=agreeing))
    assert source == "config.json"
    assert model.config.num_hidden_layers == 2  # not the default of a llama without a number of layers
    with pytest.raises(InputError, match=r"model\.shape\.hidden_size: 64, .*config\.json says 32"):
        base_structure(ModelSection(path=str(folder), shape=agreeing | {"hidden_size": 64}))


def test_the_structure_takes_no_memory() -> None:
    model, source = base_structure(llama("65b"))
    assert source == "model.shape"
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, r"model_type.*'lama'.*nearest: 'llama'"),
        ({"hiden_size": 64}, r"shape\.hiden_size.*nearest: 'hidden_size'"),
        ({"num_attention_heads": 33}, "hidden size.*heads"),
        ({"hidden_size": "big"}, "hidden_size.*'big'"),
    ],
)
def test_a_shape_that_no_model_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        base_structure(llama("7b", **changes))


def test_without_a_model_and_its_shape_both_remedies_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.path.*give its model\.shape"):
        base_structure(ModelSection(path=str(tmp_path / "missing")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.path: cannot load the configuration"):  # a folder is at hand
        base_structure(ModelSection(path=str(tmp_path / "broken"), shape={"model_type": "llama"}))
