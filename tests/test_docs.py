"""The documents say what the code does: quoted lines exist, and the README's code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from multilora import MultiLoraConfig
from places import ROOT

ROWS = re.findall(r"^\| .* \| `(.+)` \| `(src/.+\.py)` \|$", (ROOT / "docs/method.md").read_text(), re.MULTILINE)


def test_the_table_is_found() -> None:
    assert len(ROWS) >= 11


@pytest.mark.parametrize(("code", "file"), ROWS)
def test_quoted_line_is_in_its_file(code: str, file: str) -> None:
    assert code in (ROOT / file).read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_code_runs(
    make_llama: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it stands in the README, but for the hub's model, which is a small random one here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda name: make_llama())
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert BLOCKS
    assert sorted(path.name for path in (tmp_path / "my-adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert isinstance(names["merged"], type(make_llama()))


def test_readme_names_only_commands_that_exist() -> None:
    from multilora_cli.main import app

    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    commands |= {str(group.name) for group in app.registered_groups}
    named = set(re.findall(r"`multilora (\w+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= commands


def test_the_page_on_peft_runs(
    make_llama: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its blocks one after the other, on a model with the adapters that they name."""
    monkeypatch.chdir(tmp_path)
    settings = {"r": 8, "num_loras": 2, "init_weights": False}
    model = get_peft_model(make_llama(), MultiLoraConfig(**settings), adapter_name="math")
    model.add_adapter("code", MultiLoraConfig(**settings))
    names: dict[str, Any] = {"model": model, "MultiLoraConfig": MultiLoraConfig}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/peft.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 3
    assert model.active_adapters == ["both"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "multilora"]
