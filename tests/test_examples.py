"""Every script in examples/ runs, as a user runs it, on a small random Llama with a small tokenizer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from multilora import MultiLoraConfig
from places import ROOT

RUN_ELSEWHERE = {"export_to_server.py": "tests/cli/test_export_command.py"}


@pytest.fixture
def model_folder(make_llama: Callable[..., PreTrainedModel], tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=64
    )
    folder = tmp_path / "model"
    fast.save_pretrained(folder)
    make_llama(vocab_size=len(fast)).save_pretrained(folder)
    return folder


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_peft(model_folder: Path, tmp_path: Path) -> None:
    printed = run("with_peft.py", str(model_folder), str(tmp_path / "out"))
    losses = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0]
    assert float(printed.split("differ by ")[1].split()[0]) < 1e-5


def test_with_trl(model_folder: Path, tmp_path: Path) -> None:
    run("with_trl.py", str(model_folder), str(tmp_path / "out"))
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path / "out")), MultiLoraConfig)


def test_every_example_is_run() -> None:
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    tested = {"with_peft.py", "with_trl.py"} | set(RUN_ELSEWHERE)
    assert scripts <= tested, scripts - tested
    for script in scripts & set(RUN_ELSEWHERE):
        assert script in (ROOT / RUN_ELSEWHERE[script]).read_text()
