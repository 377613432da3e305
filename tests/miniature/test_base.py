"""The base model that comes with the package: small, offline, safe to load, and ignorant of the tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tools.miniature.text import PRIMER, documents
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import multilora
from multilora.data.encoding import PromptCompletionEncoder
from multilora.miniature.folder import GENERAL_TEXT, write_miniature
from multilora.miniature.tasks import TASKS, generate_tasks

ASSETS = Path(multilora.__file__).parent / "assets" / "miniature"
ROWS = 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(ASSETS)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tasks() -> Mapping[str, Any]:
    return generate_tasks(0)


def test_the_assets_are_small_and_hold_no_code() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 1024**2
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert "auto_map" not in json.loads((ASSETS / "config.json").read_text())


def test_it_is_a_llama_in_bf16(model: Any, tokenizer: Any) -> None:
    assert type(model) is LlamaForCausalLM
    assert 2_000_000 <= sum(p.numel() for p in model.parameters()) <= 3_500_000
    assert model.config.vocab_size == len(tokenizer)
    with safe_open(ASSETS / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_its_tokenizer_is_lossless_on_tasks_and_text_and_knows_every_word(tokenizer: Any, tasks: Any) -> None:
    texts = [row["prompt"] + row["completion"] for splits in tasks.values() for rows in splits.values() for row in rows]
    texts += islice(documents(0), PRIMER, PRIMER + 3000)
    for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(re.findall(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s", text))


def test_every_token_of_the_tasks_was_read_in_training(tokenizer: Any, tasks: Any) -> None:
    read = {
        token for ids in tokenizer(list(islice(documents(0), PRIMER, PRIMER + 30_000)))["input_ids"] for token in ids
    }
    prompts = [
        row["prompt"] + row["completion"] for splits in tasks.values() for rows in splits.values() for row in rows
    ]
    asked = {token for ids in tokenizer(prompts)["input_ids"] for token in ids}
    assert not tokenizer.convert_ids_to_tokens(sorted(asked - read))


def test_examples_are_short(tokenizer: Any, tasks: Any) -> None:
    encoder = PromptCompletionEncoder(tokenizer)
    for splits in tasks.values():
        rows = splits["train"]
        prompts = encoder.prompts([row["prompt"] for row in rows])
        completions = encoder.completions([row["completion"] for row in rows])
        assert max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True)) <= 64


def test_it_has_read_the_text(model: Any, tokenizer: Any) -> None:
    """Bits per token far below those of the words' frequencies (about 7)."""
    losses: list[float] = []
    for text in islice(documents(1), PRIMER, PRIMER + 40):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert sum(losses) / len(losses) < 1.6


def test_it_cannot_do_the_tasks(model: Any, tokenizer: Any, tasks: Any) -> None:
    scores = {name: score(model, tokenizer, tasks[name]["validation"][:ROWS]) for name in TASKS}
    assert sum(scores.values()) / len(scores) < 0.35, scores


def test_the_folder_holds_model_tasks_and_general_text(tmp_path: Path) -> None:
    write_miniature(tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (ASSETS / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == sorted(TASKS)
    assert (tmp_path / "text.jsonl").read_bytes() == (ASSETS.parent / GENERAL_TEXT).read_bytes()


@torch.no_grad()
def score(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> float:
    """The share of right answers: the likeliest choice, or the text that the model goes on with."""
    encoder, right = PromptCompletionEncoder(tokenizer), 0
    for row in rows:
        (prompt,) = encoder.prompts([row["prompt"]])
        if "choices" in row:
            found: list[float] = []
            for choice in encoder.completions(row["choices"]):
                logits = model(input_ids=torch.tensor([prompt + choice[:-1]])).logits[0, len(prompt) - 1 :]
                found.append(logits.log_softmax(-1)[torch.arange(len(choice) - 1), choice[:-1]].sum().item())
            right += row["choices"][found.index(max(found))] == row["completion"]
        else:
            ids = torch.tensor([prompt])
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
            )
            text = tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)
            numbers = re.findall(r"\d+", text)
            right += (
                row["answer"] == (numbers[-1:] or [""])[0] if "####" in row["completion"] else text == row["completion"]
            )
    return right / len(rows)
