"""Training on conversations from recipe to run folder: the loss has the answers and their ends, and nothing else."""

from __future__ import annotations

import json
import random
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoTokenizer

from multilora import InputError
from multilora.recipe.file import load_recipe
from multilora.training.batches import IGNORED
from multilora.training.preview import preview_recipe
from multilora.training.run import train
from multilora.training.sft import SftTrainer
from tiny_run import make_recipe

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
)
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


def write_talks(path: Path, count: int, seed: int = 0) -> set[str]:
    """Conversations of one or two answers. Returns the answers, with their ends."""
    rng, answers, rows = random.Random(seed), set[str](), list[dict[str, Any]]()
    for number in range(count):
        messages: list[dict[str, str]] = []
        for turn in range(rng.randint(1, 2)):
            answer = f"{number}{'ab'[turn]} {rng.choice(WORDS)}"
            messages += [{"role": "user", "content": f"{rng.choice(WORDS)} {number}"}]
            messages += [{"role": "assistant", "content": answer}]
            answers.add(answer + "</s>")
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return answers


def recipe_of(folder: Path, mixed: bool, **task: Any) -> tuple[Path, set[str]]:
    """A recipe of a chat task, alone or with task `a` of `make_recipe`; and all that its loss may have."""
    path = make_recipe(folder)
    recipe = yaml.safe_load(path.read_text())
    expected = write_talks(folder / "talks.jsonl", 20)
    chat = {"task": "chat", "train": str(folder / "talks.jsonl"), "chat_template": TEMPLATE} | task
    recipe["tasks"] = {"chat": chat} | ({"a": recipe["tasks"]["a"]} if mixed else {})
    if mixed:
        rows = map(json.loads, (folder / "a.jsonl").read_text().splitlines())
        expected |= {f" {row['a']}</s>" for row in rows}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path, expected


def learnt(tokenizer: Any, batch: dict[str, Tensor]) -> list[str]:
    """The text of every run of labels in the batch, which are the ids in their places."""
    texts: list[str] = []
    for labels, ids in zip(batch["labels"], batch["input_ids"], strict=True):
        assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])
        for is_learnt, run in groupby(labels.tolist(), lambda label: label != IGNORED):
            if is_learnt:
                texts.append(tokenizer.decode(list(run)))
    return texts


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
def test_the_loss_has_every_answer_with_its_end_and_nothing_else(
    mixed: bool, packing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = recipe_of(tmp_path, mixed)
    batches: list[dict[str, Tensor]] = []
    compute = SftTrainer.compute_loss

    def remembering(self: Any, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        batches.append({name: tensor.clone() for name, tensor in inputs.items()})
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SftTrainer, "compute_loss", remembering)
    result = train(load_recipe(path, [f"training.packing={str(packing).lower()}", "training.steps=24"]))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert {text for batch in batches for text in learnt(tokenizer, batch)} == expected
    assert ("position_ids" in batches[0]) == packing
    (first, *_, last) = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert last["loss"] < first["loss"]


def test_held_out_conversations_are_validated(tmp_path: Path) -> None:
    path, _ = recipe_of(tmp_path, mixed=False, validation_share=0.3)
    recipe = yaml.safe_load(path.read_text()) | {"validation": {}}
    path.write_text(yaml.safe_dump(recipe))
    result = train(load_recipe(path, ["training.steps=4"]))
    lines = [json.loads(line) for line in (result.folder / "validation.jsonl").read_text().splitlines()]
    assert all(line["tasks"]["chat"]["loss"] > 0 for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "score" not in lines[0]


def test_the_preview_shows_each_turns_mask_and_no_change_by_the_tokenizer(tmp_path: Path) -> None:
    path, expected = recipe_of(tmp_path, mixed=True)
    chat = preview_recipe(path, samples=20).tasks["chat"]
    assert {part.text for sample in chat.samples for part in sample if part.learnt} == {
        text for text in expected if not text.startswith(" ")
    }
    assert (chat.round_trip.rows, chat.round_trip.differing) == (20, 0)
    assert chat.samples[0][0].text.startswith("u: ")


def test_a_model_without_a_chat_template_is_refused_before_training(tmp_path: Path) -> None:
    path, _ = recipe_of(tmp_path, mixed=True, chat_template="")
    with pytest.raises(InputError, match=r"tasks\.chat\.chat_template: .*the tokenizer has no chat template; give one"):
        train(load_recipe(path))
    assert not (tmp_path / "run").exists()


def test_a_conversation_that_is_evaluated_on_is_kept_out_of_training(tmp_path: Path) -> None:
    path, _ = recipe_of(tmp_path, mixed=False, test=str(tmp_path / "test.jsonl"))
    rows = list(map(json.loads, (tmp_path / "talks.jsonl").read_text().splitlines()[:3]))
    for turn in (turn for row in rows for turn in row["messages"]):
        turn["content"] = turn["content"].upper() + "!"  # case and punctuation do not make another question
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"mixture\.on_leak: .* 3\."):
        preview_recipe(path)
    left = preview_recipe(path, ["mixture.on_leak=drop"]).tasks["chat"]
    assert (left.examples, left.left_out) == (17, 3)
