"""`multilora generate`: what is shown is what the models say, and the same seed says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from multilora import InputError
from multilora.evaluation.generate import Generated, GenerateOptions, generate, read_prompts
from multilora.recipe.file import load_recipe
from multilora.terminal import Silent
from multilora.training.run import train
from multilora_cli.main import app
from tiny_run import make_recipe

PROMPTS = ["a one two:", "b three:"]


class Told:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.said: list[str] = []
        self.order: list[tuple[int, str]] = []
        self._prompt = 0

    def note(self, text: str) -> None: ...

    def prompt(self, number: int, count: int, text: str) -> None:
        self._prompt = number

    def model(self, name: str) -> None:
        self.order.append((self._prompt, name))
        self.pieces = []

    def piece(self, text: str) -> None:
        self.pieces.append(text)

    def end(self, answer: Generated) -> None:
        self.said.append("".join(self.pieces))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_recipe(tmp_path_factory.mktemp("generate"), steps=4)
    return train(load_recipe(path), progress=Silent()).folder


def answers(targets: list[Path | str], **options: Any) -> list[Generated]:
    return generate([str(t) for t in targets], PROMPTS, GenerateOptions(max_new_tokens=8, **options), Told())


def test_answers_are_the_models_own_and_come_in_pieces(run: Path) -> None:
    told = Told()
    found = generate([str(run)], PROMPTS, GenerateOptions(max_new_tokens=8, base=True, merged=True), told)
    names = [str(run) + suffix for suffix in (" (base)", "", " (merged)")]
    assert [(a.prompt, a.model) for a in found] == [(p, name) for p in PROMPTS for name in names]
    assert told.order == [(number, name) for number in (1, 2) for name in names]
    assert [a.text for a in found] == told.said
    base = load_recipe(run / "recipe.yaml").model.path
    tokenizer = AutoTokenizer.from_pretrained(base)

    def alone(model: Any, prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    assert [a.text for a in found if "(base)" in a.model] == [alone(plain, prompt) for prompt in PROMPTS]
    adapted = PeftModel.from_pretrained(plain, str(run / "adapter")).eval()
    expected = [alone(adapted, prompt) for prompt in PROMPTS]
    assert [a.text for a in found if a.model == str(run)] == expected
    assert [a.text for a in found if "(merged)" in a.model] == expected


def test_the_same_seed_says_the_same(run: Path) -> None:
    one, same, other = ([a.text for a in answers([run], temperature=2.0, seed=seed, base=True)] for seed in (1, 1, 2))
    assert one == same != other


def test_an_answer_that_is_long_enough_has_not_ended(run: Path) -> None:
    for answer in answers([run]):
        assert answer.tokens <= 8
        assert answer.ended or answer.tokens == 8


def test_the_command_writes_json_lines(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    options = ["--prompt", PROMPTS[0], "--max-new-tokens", "3", "--out", str(out), "--base"]
    result = CliRunner().invoke(app, ["generate", str(run), *options])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [PROMPTS[0]] * 2
    assert all(line["text"] in result.output for line in lines)


def test_prompts_come_from_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "three\\nlines", "id": 1}\n\n{"prompt": "four"}\n')
    assert read_prompts(["zero"], tmp_path / "a.txt") == ["zero", "one", "two"]
    assert read_prompts([], tmp_path / "b.jsonl") == ["three\nlines", "four"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "no prompt: give one"),
        (b"one\n\nthree\n", "prompt 2 is empty"),
        (b"\xff\xfe\xff", "no UTF-8"),
    ],
)
def test_a_bad_file_of_prompts(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts([], tmp_path / "a.txt")


@pytest.mark.parametrize("line", ['{"text": "a"}', '{"prompt": 1}', "[1]", "{"])
def test_bad_json_lines_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(InputError, match="line 2"):
        read_prompts([], tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.5}, "--top-p has no effect without a temperature"),
        ({"temperature": -1.0}, "--temperature must be 0 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "--top-p must be above 0"),
        ({"chat": True}, "no chat template"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(InputError, match=message):
        answers([run], **options)


def test_a_model_has_no_adapter_to_leave_out_or_merge(run: Path) -> None:
    base = load_recipe(run / "recipe.yaml").model.path
    for option in ("base", "merged"):
        with pytest.raises(InputError, match=f"--{option} has no effect"):
            answers([base], **{option: True})


def test_a_prompt_that_fills_the_context(run: Path) -> None:
    with pytest.raises(InputError, match="fills the model's context"):
        generate([str(run)], ["a one " * 5000], GenerateOptions(), Told())


def test_an_output_that_cannot_be_written_is_told_before_anybody_answers(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, message in ((tmp_path, "it is a folder"), (tmp_path / "file" / "x.jsonl", "File exists|Not a directory")):
        told = Told()
        with pytest.raises(InputError, match=rf"--out: cannot write .*: ({message})"):
            generate([str(run)], PROMPTS, GenerateOptions(out=out), told)
        assert told.order == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_prompts_are_checked_before_anybody_answers(run: Path) -> None:
    told = Told()
    with pytest.raises(InputError, match="fills the model's context"):
        generate([str(run)], [*PROMPTS, "a one " * 5000], GenerateOptions(), told)
    assert told.order == []
