"""Every script in examples/ runs and shows what it says, on a small random Llama with a small tokenizer."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from multilora import MultiLoraConfig
from places import ROOT


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


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a script of examples/ prints, run as a program in this process."""

    def run(script: str, *arguments: Path) -> str:
        path = str(ROOT / "examples" / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def with_peft(run: Run, model_folder: Path, out: Path) -> None:
    printed = run("with_peft.py", model_folder, out)
    losses = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0]
    assert float(printed.split("differ by ")[1].split()[0]) < 1e-5


def with_trl(run: Run, model_folder: Path, out: Path) -> None:
    run("with_trl.py", model_folder, out)
    assert isinstance(PeftConfig.from_pretrained(str(out)), MultiLoraConfig)


def export_to_server(run: Run, model_folder: Path, out: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    adapter = out.with_name("adapter")
    get_peft_model(base, MultiLoraConfig(r=4, num_loras=2, init_weights=False)).save_pretrained(adapter)
    for arguments in ([], [adapter, out]):
        printed = run("export_to_server.py", *arguments)
        assert float(printed.split("differ by ")[1].split()[0]) <= 1e-5
        assert "--max-lora-rank" in printed
    assert (out / "adapter_model.safetensors").is_file()


def dpo_on_a_trained_adapter(run: Run, model_folder: Path, out: Path) -> None:
    printed = run("dpo_on_a_trained_adapter.py", model_folder, out)
    assert float(printed.split("first DPO loss ")[1].split()[0]) == pytest.approx(math.log(2), abs=1e-4)
    assert isinstance(PeftConfig.from_pretrained(str(out / "dpo")), MultiLoraConfig)


def classifier(run: Run, model_folder: Path, out: Path) -> None:
    printed = run("classifier.py", model_folder, out)
    assert float(printed.split("differ by ")[1].split()[0]) < 1e-5


def qlora(run: Run, model_folder: Path, out: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit weights need the extra `quantized`")
    printed = run("qlora.py", model_folder, out)
    assert "14 of 14 scales have left zero" in printed


CHECKS = {
    "with_peft.py": with_peft,
    "with_trl.py": with_trl,
    "export_to_server.py": export_to_server,
    "dpo_on_a_trained_adapter.py": dpo_on_a_trained_adapter,
    "classifier.py": classifier,
    "qlora.py": qlora,
}


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_runs_as_it_says(run: Run, model_folder: Path, tmp_path: Path, script: str) -> None:
    CHECKS[script](run, model_folder, tmp_path / "out")
