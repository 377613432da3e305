"""Validation only looks; its losses are those of each example alone; the best weights are the ones that are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from multilora import InputError
from multilora.data.encoding import PromptCompletionEncoder, encode_task
from multilora.evaluation.harness import evaluate_tasks
from multilora.recipe.file import load_recipe
from multilora.terminal import Silent
from multilora.training.prepare import open_tasks
from multilora.training.run import RunResult, train
from tiny_run import make_recipe, read_lines

TEXTS = ["one two three four five six", "the sum of one and two is three and so on " * 6, "seven"]


# Steps far too large, so that the last weights are not the best.
WILD: dict[str, Any] = {"learning_rate": 30.0, "warmup": 0.0, "scheduler": "constant", "max_grad_norm": None}


class Told(Silent):
    def __init__(self, interrupt_at: int | None = None) -> None:
        self.notes: list[str] = []
        self._interrupt_at = interrupt_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: int, metrics: Any) -> None:
        if step == self._interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """A recipe whose tasks hold a share of their rows out, with a validation section."""

    def make(validation: dict[str, Any] | None, **training: Any) -> Path:
        path = make_recipe(tmp_path, **training)
        (tmp_path / "general.json").write_text(json.dumps(TEXTS))
        data = yaml.safe_load(path.read_text())
        for task in data["tasks"].values():
            task["validation_share"] = 0.3
        if validation is not None:
            data["validation"] = validation
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return make


def run(path: Path, *overrides: str, **options: Any) -> RunResult:
    return train(load_recipe(path, overrides), **options)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return read_lines(result.folder / "validation.jsonl")


def weights(result: RunResult) -> dict[str, Tensor]:
    return load_file(result.weights / "adapter_model.safetensors")


def loss_by_hand(model: Any, rows: list[Any], learnt: list[Any]) -> tuple[float, int]:
    """Nats per learnt token, and how many there are, of each example alone."""
    nats, tokens = 0.0, 0
    for ids, mask in zip(rows, learnt, strict=True):
        ids_of = torch.as_tensor(ids).long()
        with torch.no_grad():
            logits = model(input_ids=ids_of[None]).logits[0].double()
        each = nn.functional.cross_entropy(logits[:-1], ids_of[1:], reduction="none")[torch.as_tensor(mask[1:])]
        nats, tokens = nats + float(each.sum()), tokens + len(each)
    return nats / tokens, tokens


def test_losses_are_those_of_each_validation_row_alone(recipe: Callable[..., Path]) -> None:
    path = recipe({"general_text": "GENERAL"})
    path.write_text(path.read_text().replace("GENERAL", str(path.parent / "general.json")))
    result = run(path)
    before, after = lines(result)
    assert (before["step"], after["step"]) == (0, 12)
    loaded = load_recipe(path)
    tokenizer = AutoTokenizer.from_pretrained(loaded.model.path)
    encoder = PromptCompletionEncoder(tokenizer)
    base = AutoModelForCausalLM.from_pretrained(loaded.model.path)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(loaded.model.path), result.weights).eval()
    windows = [ids[s : s + 64] for ids in encoder.prompts(TEXTS) for s in range(0, len(ids), 64)]
    for model, line in ((base, before), (adapted, after)):
        for task in open_tasks(loaded):
            rows = encode_task(task, encoder, 64, split="validation")
            parts = [slice(*rows.offsets[number : number + 2]) for number in range(len(rows))]
            loss, tokens = loss_by_hand(
                model, [rows.input_ids[part] for part in parts], [rows.loss_mask[part] for part in parts]
            )
            assert line["tasks"][task.name]["tokens"] == tokens
            assert line["tasks"][task.name]["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["loss"] == pytest.approx(sum(task["loss"] for task in line["tasks"].values()) / 2)
        loss, tokens = loss_by_hand(model, windows, [[True] * len(window) for window in windows])
        assert line["general_text"]["loss"] == pytest.approx(loss, rel=1e-5)
        characters = sum(map(len, TEXTS))
        assert line["general_text"]["bits_per_character"] == pytest.approx(loss * tokens / math.log(2) / characters)
    assert json.loads((result.folder / "results.json").read_text())["validation"] == {
        "before": before,
        "after": after,
        "best": None,
    }


def test_validation_changes_nothing(recipe: Callable[..., Path]) -> None:
    # The recipe has dropout, so a random number more or less would show.
    plain = run(recipe(None))
    looked = run(recipe({"every": 2}), f"training.output={plain.folder.with_name('looked')}")
    assert [line["step"] for line in lines(looked)] == [0, 2, 4, 6, 8, 10, 12]
    assert all(torch.equal(tensor, weights(looked)[name]) for name, tensor in weights(plain).items())
    kept = [{k: v for k, v in line.items() if "second" not in k} for line in read_lines(plain.folder / "metrics.jsonl")]
    assert kept == [
        {k: v for k, v in line.items() if "second" not in k} for line in read_lines(looked.folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize("best_by", ["loss", "b.loss"])
def test_the_best_weights_are_kept(recipe: Callable[..., Path], best_by: str) -> None:
    result = run(recipe({"every": 1, "best_by": best_by}, **WILD))
    values = [line["loss"] if best_by == "loss" else line["tasks"]["b"]["loss"] for line in lines(result)]
    best = values.index(min(values))
    assert 0 < best < 12
    recorded = json.loads((result.folder / "results.json").read_text())["validation"]
    assert recorded["best"] == {"step": best, "best_by": best_by, "value": values[best]}
    assert recorded["after"]["step"] == best
    again = run(
        recipe({"every": 1}, **WILD),
        f"training.output={result.folder.with_name('again')}",
        "training.save_every=1",
        "training.keep_checkpoints=20",
    )
    then = load_file(again.folder / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, then[name]) for name, tensor in weights(result).items())


def test_an_interrupted_run_ends_with_the_same_validation_and_the_same_best(recipe: Callable[..., Path]) -> None:
    path = recipe({"every": 1, "best_by": "loss"}, **WILD)
    whole = run(path)
    elsewhere = f"training.output={whole.folder.with_name('interrupted')}"
    with pytest.raises(KeyboardInterrupt):
        run(path, elsewhere, progress=Told(interrupt_at=7))
    resumed = run(path, elsewhere, resume=True)
    assert lines(resumed) == lines(whole)
    assert resumed.results.validation == whole.results.validation
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


def test_scores_are_those_of_an_evaluation(recipe: Callable[..., Path]) -> None:
    pytest.importorskip("lm_eval", reason="scores need the extra `eval`")
    path = recipe({"scores": True, "limit": 5})
    data = yaml.safe_load(path.read_text())
    rows = [{"q": f"{word} {n}", "a": n % 2} for n, word in enumerate(["one", "two", "three"] * 10)]
    (path.parent / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data["tasks"]["c"] = {
        "train": str(path.parent / "c.jsonl"),
        "prompt": "{q}:",
        "choices": [" one", " two"],
        "answer": "a",
        "validation_share": 0.4,
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    result = run(path)
    before, after = lines(result)
    loaded = load_recipe(path)
    base = AutoModelForCausalLM.from_pretrained(loaded.model.path)
    tokenizer = AutoTokenizer.from_pretrained(loaded.model.path)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(loaded.model.path), result.weights)
    for model, line in ((base, before), (adapted, after)):
        tasks = [task for task in open_tasks(loaded) if task.name == "c"]
        evaluation = evaluate_tasks(model, tokenizer, tasks, split="validation", limit=5)
        assert line["tasks"]["c"]["accuracy"] == evaluation.tasks["c"].metrics["accuracy"].value == line["score"]
    assert "accuracy" not in before["tasks"]["a"]


def test_generated_answers_need_no_room_in_the_trainings_length(recipe: Callable[..., Path]) -> None:
    pytest.importorskip("lm_eval", reason="scores need the extra `eval`")
    path = recipe({"scores": True, "limit": 5}, max_length=32)
    rows = [{"q": f"one {n}", "a": f"= {n % 10}"} for n in range(30)]
    (path.parent / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = yaml.safe_load(path.read_text())
    data["tasks"]["d"] = {
        "train": str(path.parent / "d.jsonl"),
        "prompt": "{q}:",
        "completion": " {a}",
        "score": "final_number",
        "validation_share": 0.4,
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    assert all(0 <= line["tasks"]["d"]["exact_match"] <= 1 for line in lines(run(path)))


def test_a_limit_spreads_over_the_rows(recipe: Callable[..., Path]) -> None:
    path = recipe({"limit": 3})
    few = lines(run(path))[0]["tasks"]
    everything = run(path, "validation.limit=null", f"training.output={path.parent / 'all'}")
    all_of_them = lines(everything)[0]["tasks"]
    assert 0 < few["a"]["tokens"] < all_of_them["a"]["tokens"]


def test_a_task_without_validation_rows_is_named(recipe: Callable[..., Path]) -> None:
    told = Told()
    result = run(recipe({}), "tasks.a.validation_share=0", progress=told)
    assert list(lines(result)[0]["tasks"]) == ["b"]
    assert any(note.startswith("tasks.a: no validation split") for note in told.notes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks.a.validation_share=0", "tasks.b.validation_share=0"], "no task has validation rows"),
        (
            ["validation.best_by=c.loss", "validation.every=2"],
            r"best_by: nothing measured is called 'c\.loss'.*b\.loss",
        ),
        (["validation.best_by=loss"], "best_by: loss needs every"),
        (
            ["validation.best_by=score", "validation.every=2", "validation.scores=true"],
            "nothing measured is called 'score'",
        ),
        (["validation.best_by=a.accuracy", "validation.every=2"], "scores are off; set scores: true"),
        (["validation.general_text=nowhere.json"], r"validation\.general_text: cannot read 'nowhere\.json'"),
        (["validation.evry=2"], "unknown key; nearest: 'every'"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    recipe: Callable[..., Path], overrides: list[str], message: str
) -> None:
    path = recipe({})
    with pytest.raises(InputError, match=message):
        run(path, *overrides)
    assert not (path.parent / "run").exists()


def test_what_only_looks_does_not_change_the_hash_and_what_decides_does(recipe: Callable[..., Path]) -> None:
    plain, looking = load_recipe(recipe(None)), load_recipe(recipe({"every": 3}))
    deciding = load_recipe(recipe({"every": 3, "best_by": "loss"}))
    assert plain.recipe_hash() == looking.recipe_hash() != deciding.recipe_hash()
