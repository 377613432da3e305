"""`multilora data`: what is found, what is shown, and exit codes."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from console import Run
from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.encoder import PromptCompletionEncoder
from multilora.errors import InputError
from multilora.recipe.file import load_recipe
from multilora.training.batches import Collator, MixtureSampler, PackedCollator, PackedRows, PackedSampler, as_dataset
from multilora.training.prepare import encode_mixture, open_tasks
from multilora.training.preview import Preview, preview_recipe
from tasks.formats import JSON_LINES, write_lines
from tiny_run import make_recipe

# Check ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """A recipe of GSM8K and JSON lines, whose training rows hold 7 + 1 questions of GSM8K's test."""
    row = JSON_LINES["gsm8k"]
    write_lines(tmp_path / "gsm8k" / "train.jsonl", [row(i) for i in range(20)])
    write_lines(tmp_path / "gsm8k" / "test.jsonl", [row(i) for i in range(13, 23)])
    prompt = f"Question: {row(22)['question']}\nAnswer:"
    write_lines(tmp_path / "mine.jsonl", [{"q": prompt.upper(), "a": "x"}, {"q": "another", "a": "y"}])
    recipe: dict[str, Any] = {
        "model": str(tmp_path / "no-model"),
        "method": {"name": "lora"},
        "tasks": {
            "sums": {"task": "gsm8k", "folder": str(tmp_path / "gsm8k")},
            "mine": {"train": str(tmp_path / "mine.jsonl"), "prompt": "{q}", "completion": " {a}"},
        },
        "training": {"output": str(tmp_path / "run"), "steps": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_leaks_are_counted_and_named_and_the_exit_code_is_1(run: Run, leaking: Path) -> None:
    code, out, err = run("data", "check", leaking)
    assert (code, err) == (1, "")
    assert "8 training rows equal evaluation rows; 22 training rows compared with 10 evaluation rows" in out
    assert "sums/train → sums/test: 7" in out
    assert "train.jsonl line 14 (train-14) = test.jsonl line 1 (test-1)" in out
    assert "and 2 more; --all names them" in out
    assert "mine/train → sums/test: 1\n    mine.jsonl line 1 = test.jsonl line 10 (test-10)" in out
    assert "on_leak: drop" in out

    _, every, _ = run("data", "check", leaking, "--all")
    assert "more" not in every
    assert "train.jsonl line 20 (train-20) = test.jsonl line 7 (test-7)" in every


def test_json_has_every_row(run: Run, leaking: Path) -> None:
    code, out, _ = run("data", "check", leaking, "--json")
    facts = json.loads(out)
    assert code == 1
    assert facts["leaked_rows"] == 8
    assert facts["read"] == {"sums/train": 20, "mine/train": 2, "sums/test": 10}
    first, second = facts["leaks"]
    assert (first["first"], first["second"], first["first_rows"], first["second_rows"]) == (
        "sums/train",
        "sums/test",
        7,
        7,
    )
    assert len(first["matches"]) == 7
    assert second["matches"] == [
        [{"source": "mine.jsonl line 1", "id": ""}, {"source": "test.jsonl line 10", "id": "test-10"}]
    ]


def test_a_clean_recipe_exits_with_0(run: Run, leaking: Path) -> None:
    write_lines(leaking.parent / "gsm8k" / "test.jsonl", [JSON_LINES["gsm8k"](i) for i in range(30, 33)])
    code, out, err = run("data", "check", leaking)
    assert (code, err) == (0, "")
    assert out.startswith("no training row equals an evaluation row; 22 training rows compared with 3")


def test_a_check_that_lacks_files_is_not_clean(run: Run, leaking: Path) -> None:
    (leaking.parent / "gsm8k" / "test.jsonl").unlink()
    code, _, err = run("data", "check", leaking)
    assert code == 2
    assert err.startswith("error: sums: test rows are not all compared: tasks.sums.folder: cannot read ")
    (leaking.parent / "mine.jsonl").unlink()
    code, out, err = run("data", "check", leaking)
    assert (code, out) == (2, "")
    assert err.startswith("error: tasks.mine.train: cannot read")


# Preview ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose model has no weights: a preview reads none."""
    path = make_recipe(tmp_path)
    (tmp_path / "model" / "model.safetensors").unlink()
    return path


def encoded(recipe: Path, *overrides: str) -> tuple[Preview, EncodedMixture, Any]:
    loaded = load_recipe(recipe, overrides)
    tokenizer = AutoTokenizer.from_pretrained(loaded.model.path)
    return (
        preview_recipe(recipe, overrides),
        encode_mixture(loaded, open_tasks(loaded), PromptCompletionEncoder(tokenizer)),
        tokenizer,
    )


def test_the_figures_are_those_of_the_encoded_mixture(recipe: Path) -> None:
    preview, mixture, _ = encoded(recipe, "training.gradient_accumulation=3")
    assert preview.examples == 12 * 4 * 3
    assert preview.steps == 12
    tasks = list(preview.tasks.values())
    assert list(preview.tasks) == ["a", "b"]
    assert [task.examples for task in tasks] == [40, 30]
    assert [task.share_of_examples for task in tasks] == pytest.approx([2 / 3, 1 / 3])
    assert sum(task.share_of_tokens for task in tasks) == pytest.approx(1)
    assert sum(task.epochs * task.examples for task in tasks) == pytest.approx(preview.examples)
    lengths = [part.lengths for part in mixture.tasks]
    means = [float(part.mean()) for part in lengths]
    assert tasks[0].share_of_tokens / tasks[1].share_of_tokens == pytest.approx(2 * means[0] / means[1])
    for task, part in zip(tasks, lengths, strict=True):
        assert (task.lengths["min"], task.lengths["max"]) == (part.min(), part.max())
        assert np.mean(part <= task.lengths["median"]) >= 0.5
        assert np.mean(part <= task.lengths["p95"]) >= 0.95
        assert task.counts["tokens"] == part.sum()
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize("packing", [True, False])
def test_examples_and_useful_positions_are_those_of_the_batches(recipe: Path, packing: bool) -> None:
    preview, mixture, _ = encoded(recipe, f"training.packing={str(packing).lower()}", "training.batch_size=3")
    rows = 12 * 3
    dataset = as_dataset(mixture.tasks)
    if packing:
        sampler = PackedSampler(mixture.sizes, mixture.rates, 0, mixture.lengths, 128, rows)
        source, collator = PackedRows(dataset), PackedCollator(0, 128)
    else:
        sampler, source, collator = MixtureSampler(mixture.sizes, mixture.rates, 0, rows), dataset, Collator(0)
    order = list(sampler)
    batches = [collator([source[i] for i in order[start : start + 3]]) for start in range(0, rows, 3)]
    used = sum(int((batch["task_ids"] >= 0).sum()) for batch in batches)
    assert preview.useful_positions == pytest.approx(used / sum(batch["task_ids"].numel() for batch in batches))
    assert preview.examples == sampler.examples_in(rows)
    assert preview.row_length == (128 if packing else None)


@pytest.mark.parametrize("handling", ["drop", "truncate"])
def test_what_is_too_long_is_counted(recipe: Path, handling: str) -> None:
    preview, mixture, _ = encoded(recipe, f"training.on_long_example={handling}", "training.max_length=6")
    assert preview.max_length == 6
    for task, part in zip(preview.tasks.values(), mixture.tasks, strict=True):
        counts = part.counts
        assert 0 < task.too_long == (counts.dropped + counts.truncated) / counts.rows < 1
        assert task.lengths["max"] <= 6
    assert any("longer than max_length" in note or "truncated to" in note for note in preview.notes)


def test_of_a_stream_the_first_rows_are_read(recipe: Path) -> None:
    whole = preview_recipe(recipe, ["mixture.streaming=true"])
    assert whole.tasks == preview_recipe(recipe).tasks
    cut = preview_recipe(recipe, ["mixture.streaming=true"], rows_of_stream=35)
    assert cut.notes[1:] == ["a: it streams; the figures are of its first 35 rows"]
    assert cut.notes[:1] == whole.notes
    assert "`multilora data check`" in whole.notes[0]
    assert (cut.tasks["a"].examples, cut.tasks["a"].epochs, cut.tasks["a"].round_trip.rows) == (35, None, 35)
    assert (cut.tasks["b"].examples, cut.tasks["b"].epochs) == (30, whole.tasks["b"].epochs)


def test_leaks_stop_a_preview_as_they_stop_training_or_are_left_out(recipe: Path) -> None:
    row = JSON_LINES["gsm8k"]
    write_lines(recipe.parent / "gsm8k" / "train.jsonl", [row(i) for i in range(20)])
    write_lines(recipe.parent / "gsm8k" / "test.jsonl", [row(i) for i in range(13, 23)])
    task = f"tasks.sums={{task: gsm8k, folder: {recipe.parent / 'gsm8k'}}}"
    with pytest.raises(InputError, match=r"mixture\.on_leak: training rows that equal evaluation rows: 7\."):
        preview_recipe(recipe, [task])
    preview = preview_recipe(recipe, [task, "mixture.on_leak=drop", "training.max_length=256"])
    sums = preview.tasks["sums"]
    assert (sums.examples, sums.left_out, sums.round_trip.rows) == (13, 7, 13)
    assert any(note.startswith("sums: 7 rows left out of training: train.jsonl line 14") for note in preview.notes)


def test_samples_are_the_tokens_with_the_loss_mask(recipe: Path) -> None:
    preview, mixture, tokenizer = encoded(recipe)
    for task, part in zip(preview.tasks.values(), mixture.tasks, strict=True):
        assert len(task.samples) == 3
        for row, sample in zip((0, len(part) // 3, 2 * len(part) // 3), task.samples, strict=True):
            ids = part.input_ids[part.offsets[row] : part.offsets[row + 1]]
            mask = part.loss_mask[part.offsets[row] : part.offsets[row + 1]]
            assert "".join(piece.text for piece in sample) == tokenizer.decode(ids)
            prompt, completion = sample
            assert (prompt.learnt, completion.learnt) == (False, True)
            assert completion.text == tokenizer.decode(ids[mask])
            assert completion.text.endswith("</s>")
    assert [len(task.samples) for task in preview_recipe(recipe, samples=0).tasks.values()] == [0, 0]


def test_the_terminal_shows_figures_and_bracketed_samples(run: Run, recipe: Path) -> None:
    code, out, err = run("data", "preview", recipe, "--samples", "1", "--set", "training.packing=true")
    assert (code, err) == (0, "")
    first = next(islice(open_tasks(load_recipe(recipe))[0].train_rows(), 1))
    assert f"{first.prompt}⟦{first.completion}</s>⟧" in out  # type: ignore[union-attr]
    assert "packed into rows of 128 tokens" in out
    assert "padded with eos </s>, which neither attention nor loss sees" in out
    assert "\x1b" not in out
    assert out.count("⟦") == 2


def test_json_has_the_same_facts(run: Run, recipe: Path) -> None:
    code, out, _ = run("data", "preview", recipe, "--json", "--samples", "2", "--set", "training.steps=3")
    assert code == 0
    assert json.loads(out) == preview_recipe(recipe, ["training.steps=3"], samples=2).facts()


def test_data_cannot_steer_the_terminal(run: Run, recipe: Path) -> None:
    (recipe.parent / "a.jsonl").write_text(json.dumps({"q": "\x1b[31mred [bold]\x07", "a": "\x1b]0;title"}) + "\n")
    code, out, _ = run("data", "preview", recipe, "--set", "tasks.a.rate=0.5")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "␛[31mred [bold]␇" in out


def test_a_tokenizer_without_eos_and_pad_is_one_clear_error(run: Run, recipe: Path) -> None:
    config = recipe.parent / "model" / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "eos_token"}))
    code, out, err = run("data", "preview", recipe)
    assert (code, out) == (2, "")
    assert err.startswith("error: model: the tokenizer has no eos token")
    assert "set `eos_token` in the model folder's tokenizer_config.json" in err


@pytest.mark.parametrize(("model", "lossy"), [("stories260K", False), ("tinystories-656k", True)])
def test_a_lossy_tokenizer_is_found_on_real_text(data_dir: Path, tmp_path: Path, model: str, lossy: bool) -> None:
    source = data_dir / "data/gsm8k/train.jsonl"
    for needed in (source, data_dir / "models" / model):
        if not needed.exists():
            pytest.skip(f"needs real data: {needed} is missing")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:300]
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = {
        "model": str(data_dir / "models" / model),
        "method": {"name": "lora"},
        "tasks": {"sums": {"task": "gsm8k", "folder": str(tmp_path)}},
        "training": {"output": str(tmp_path / "run"), "steps": 1, "max_length": 512},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    preview = preview_recipe(path)
    trip = preview.tasks["sums"].round_trip
    assert trip.rows == 300
    if lossy:
        assert trip.share > 0.99
        assert set("=+") <= set(trip.lost)
        (warning,) = preview.warnings
        assert warning.startswith("sums: the tokenizer changes ")
        assert "'='" in warning
    else:
        assert (trip.differing, trip.lost, preview.warnings) == (0, "", [])
