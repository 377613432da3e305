"""PEFT knows the method after `import multilora`: its enum, its tables, and nothing of another method is disturbed."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from multilora import MultiLoraConfig, MultiLoraModel
from multilora.tuner.registration import add_peft_type, register


def test_member_behaves_like_any_other() -> None:
    member = PeftType("MULTILORA")
    assert member is PeftType["MULTILORA"] is PeftType.MULTILORA  # type: ignore[attr-defined]
    assert isinstance(member, PeftType)
    assert member == "MULTILORA"
    assert (member.name, member.value) == ("MULTILORA", "MULTILORA")
    assert member in PeftType
    assert member in list(PeftType)
    assert len({m.value for m in PeftType}) == len(list(PeftType)) == len(PeftType)
    assert repr(member) == "<PeftType.MULTILORA: 'MULTILORA'>"
    assert str(member) == str(PeftType.LORA).replace("LORA", "MULTILORA")
    assert f"{member}" == f"{PeftType.LORA}".replace("LORA", "MULTILORA")
    assert hash(member) == hash(PeftType("MULTILORA"))
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
    assert json.dumps(member) == '"MULTILORA"'
    with pytest.raises(AttributeError):
        PeftType.MULTILORA = "other"  # type: ignore[attr-defined]


def test_tables_hold_the_method() -> None:
    key = PeftType("MULTILORA")
    assert PEFT_TYPE_TO_CONFIG_MAPPING[key] is MultiLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[key] is MultiLoraModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[key] == "multilora_"
    assert PEFT_TYPE_TO_CONFIG_MAPPING["MULTILORA"] is MultiLoraConfig  # as adapter_config.json spells it


def test_registering_again_changes_nothing() -> None:
    before = list(PeftType)
    add_peft_type()
    register(MultiLoraConfig, MultiLoraModel)
    assert list(PeftType) == before


def test_another_method_of_that_name_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"PEFT already has a method MULTILORA \(multilora\.tuner\.config\.MultiLoraConfig\)"
    ):
        register(type("Other", (MultiLoraConfig,), {}), MultiLoraModel)


@pytest.mark.parametrize("first", ["peft", "transformers", "multilora"])
def test_order_of_imports_does_not_matter(first: str) -> None:
    def told(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = told(f"import {first}; import multilora, peft; print(peft.PeftType('MULTILORA').name)")
    assert done.stdout == "MULTILORA\n", done.stderr
    # On some CPUs PEFT, imported first, has bitsandbytes say something, which is not ours.
    assert done.stderr == (told("import peft").stderr if first == "peft" else "")
