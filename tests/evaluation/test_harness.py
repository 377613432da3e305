"""What an evaluation must obey, whatever the model knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evaluation.in_memory import NUMBER, QUESTIONS, GivenTask, yes_no
from multilora import InputError, MultiLoraConfig
from multilora.tasks.data_sets.mmlu_subjects import CATEGORIES, SUBJECTS
from multilora.tasks.example import BadRow, Example, Scoring
from tasks.formats import made_up
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")

from multilora.evaluation.harness import evaluate_tasks
from multilora.evaluation.records import TaskEvaluation

MakeModel = Callable[..., PreTrainedModel]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PROMPTS = [" ".join(random.Random(number).choices(WORDS, k=2 + number % 9)) for number in range(30)]
ADAPTER = MultiLoraConfig(r=4, num_loras=2, target_modules="all-linear", task_type="CAUSAL_LM")


def tasks() -> list[GivenTask]:
    """One of choices and one of numbers."""
    numbers = [
        Example(f"Question: {prompt}?", " #### 1", f"row {number}", f"n-{number}", answers=("1",))
        for number, prompt in enumerate(PROMPTS[:9])
    ]
    return [GivenTask("choices", yes_no(PROMPTS)), GivenTask("numbers", numbers, NUMBER)]


@pytest.fixture
def tokenizer() -> Any:
    return byte_level_tokenizer()


@pytest.fixture
def model(make_llama: MakeModel, tokenizer: Any) -> PreTrainedModel:
    return make_llama(vocab_size=len(tokenizer), max_position_embeddings=128)


def run(model: Any, tokenizer: Any, **options: Any) -> Mapping[str, TaskEvaluation]:
    return evaluate_tasks(model, tokenizer, options.pop("tasks", tasks()), max_new_tokens=8, **options).tasks


def likelihoods(found: TaskEvaluation) -> list[list[float]]:
    return [record.log_likelihoods for record in found.predictions]


def same(one: Mapping[str, TaskEvaluation], other: Mapping[str, TaskEvaluation], abs: float) -> None:
    assert np.array(likelihoods(one["choices"])) == pytest.approx(np.array(likelihoods(other["choices"])), abs=abs)
    assert [r.generated for r in one["numbers"].predictions] == [r.generated for r in other["numbers"].predictions]


# Likelihoods ------------------------------------------------------------------------------------------------------


def test_a_likelihood_is_that_of_the_choices_tokens_after_the_prompt(model: Any, tokenizer: Any) -> None:
    (found,) = run(model, tokenizer, tasks=tasks()[:1]).values()
    for record, prompt in zip(found.predictions, PROMPTS, strict=True):
        for choice, value in zip(record.choices, record.log_likelihoods, strict=True):
            before, ids = tokenizer.encode(prompt), tokenizer.encode(prompt + choice)
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = sum(float(logits[place - 1, ids[place]]) for place in range(len(before), len(ids)))
            assert value == pytest.approx(expected, abs=1e-4)


def test_the_accuracy_is_the_harness_own(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from multilora.evaluation import definitions, runner

    aggregated: dict[str, Any] = {}
    original = runner.Runner.run

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        results = original(self, *args, **kwargs)
        aggregated.update(results["results"])
        return results

    monkeypatch.setattr(runner.Runner, "run", spy)
    monkeypatch.setattr(definitions, "_no_metrics", None)  # so that the harness computes its own
    found = run(model, tokenizer, tasks=tasks()[:1])["choices"].metrics["accuracy"]
    assert found.value == aggregated["choices"]["acc,none"]


def test_an_untrained_adapter_is_its_base(model: Any, tokenizer: Any) -> None:
    base = run(model, tokenizer)
    same(run(get_peft_model(model, ADAPTER), tokenizer), base, abs=0)


def test_merged_is_adapted(model: Any, tokenizer: Any) -> None:
    base = run(model, tokenizer)
    adapted = get_peft_model(model, replace(ADAPTER, init_weights=False))
    before = run(adapted, tokenizer)
    same(run(adapted.merge_and_unload(), tokenizer), before, abs=1e-4)
    assert np.abs(np.array(likelihoods(base["choices"])) - likelihoods(before["choices"])).max() > 1e-2


def test_the_batch_size_changes_nothing(model: Any, tokenizer: Any) -> None:
    one = run(model, tokenizer, batch_size=1)
    for size in (3, 16, "auto"):
        found = run(model, tokenizer, batch_size=size)
        same(found, one, abs=1e-5)
        assert found["choices"].metrics == one["choices"].metrics


def test_twice_is_the_same(model: Any, tokenizer: Any) -> None:
    one, other = run(model, tokenizer), run(model, tokenizer)
    assert {name: replace(task, seconds=0) for name, task in one.items()} == {
        name: replace(task, seconds=0) for name, task in other.items()
    }


def test_a_limit_scores_the_same_rows_in_the_same_way(model: Any, tokenizer: Any) -> None:
    every = {record.id: record for record in run(model, tokenizer)["choices"].predictions}
    some = run(model, tokenizer, limit=7)["choices"]
    assert len(some.predictions) == some.rows == 7
    for record in some.predictions:
        assert record.log_likelihoods == pytest.approx(every[record.id].log_likelihoods, abs=1e-5)


# Scores -----------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_the_answers_is_right(make_llama: MakeModel, tokenizer: Any) -> None:
    model = make_llama(vocab_size=len(tokenizer), max_position_embeddings=128)
    rows = yes_no(["one", "two"])
    numbers = [Example("Question: one", " #### 12", "row", "n", answers=("12",))]
    texts = [row.prompt + row.completion for row in (*rows, *numbers)]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        for text in texts:
            ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id]])
            model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    found = run(model, tokenizer, tasks=[GivenTask("choices", rows), GivenTask("numbers", numbers, NUMBER)])
    assert found["choices"].metrics["accuracy"].value == 1.0
    assert found["numbers"].metrics["exact_match"].value == 1.0
    assert found["numbers"].predictions[0].generated.strip() == "#### 12"


def test_mmlu_is_also_scored_by_subject_and_category(tmp_path: Path, make_llama: MakeModel, tokenizer: Any) -> None:
    model = make_llama(vocab_size=len(tokenizer), max_position_embeddings=256)
    (found,) = run(model, tokenizer, tasks=[made_up("mmlu", tmp_path)]).values()
    assert set(found.groups) == {"category", "subject"}
    assert sorted(found.groups["subject"]) == list(SUBJECTS)
    assert set(found.groups["category"]) == set(CATEGORIES.values())
    whole = found.metrics["accuracy"]
    for groups in found.groups.values():
        scores = [metrics["accuracy"] for metrics in groups.values()]
        assert sum(score.count for score in scores) == whole.count == 2 * len(SUBJECTS)
        values = [score.value * score.count for score in scores if score.value is not None]
        assert sum(values) == pytest.approx(whole.value * whole.count)  # pyright: ignore


def test_questions_are_scored_and_left_out_as_a_whole(model: Any, tokenizer: Any) -> None:
    prompts = ["one", "two " * 200, "three", "four"]
    task = GivenTask("q", yes_no(prompts, {0: "a", 1: "a", 2: "b", 3: "b"}), QUESTIONS)
    (found,) = run(model, tokenizer, tasks=[task]).values()
    assert [record.id for record in found.predictions] == ["id-2", "id-3"]
    assert found.metrics["exact_match_of_questions"].count == 1
    assert found.groups == {}


def test_what_is_not_scored_is_told_with_the_reason(model: Any, tokenizer: Any) -> None:
    notes: list[str] = []
    free = GivenTask("free", [Example("p", " a", "s")], Scoring("none"))
    found = run(model, tokenizer, tasks=[free, tasks()[0]], split="validation", note=notes.append)
    assert found["free"].not_scored == "free text, for which the task has no score"
    assert found["choices"].not_scored == "tasks.choices: no validation split"
    assert [note for note in notes if "not scored" in note] == [
        f"{name}: not scored: {task.not_scored}" for name, task in found.items()
    ]
    assert not any(task.metrics or task.predictions for task in found.values())


def test_bad_rows_are_counted_where_they_may_be_skipped(model: Any, tokenizer: Any) -> None:
    task = GivenTask("t", [*yes_no(PROMPTS[:3]), BadRow("line 4", "no label")])
    with pytest.raises(InputError, match="line 4: no label"):
        run(model, tokenizer, tasks=[task])
    notes: list[str] = []
    (found,) = run(model, tokenizer, tasks=[task], on_bad_row={"t": "skip"}, note=notes.append).values()
    assert found.counts is not None
    assert (found.counts.skipped, len(found.predictions)) == (1, 3)
    assert "t: 1 bad rows skipped: line 4 (no label)" in notes


# Everything is left as it was -------------------------------------------------------------------------------------


def test_model_tokenizer_and_random_numbers_are_as_before(model: Any, tokenizer: Any, capsys: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tokens, states = tokenizer.backend_tokenizer.to_str(), (torch.get_rng_state(), random.getstate())
    numpy_state = str(np.random.get_state())
    run(model, tokenizer)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert tokenizer.backend_tokenizer.to_str() == tokens
    assert tokenizer.pad_token is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(np.random.get_state()) == numpy_state
    assert "tie_weights" not in vars(model)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_an_adapter_with_a_layer_of_a_tied_model(make_llama: MakeModel, tokenizer: Any) -> None:
    """The harness would tie the trained layer to the embeddings again."""
    model = make_llama(vocab_size=len(tokenizer), max_position_embeddings=128, tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name:
            parameter.data.mul_(2)
    ids = torch.tensor([tokenizer.encode("one two")])
    before = adapted(ids).logits
    run(adapted, tokenizer)
    assert torch.equal(adapted(ids).logits, before)


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"limit": 0}, {"batch_size": 0}, {"batch_size": -1}])
def test_numbers_below_one(options: dict[str, int], model: Any, tokenizer: Any) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"{name}: must be at least 1"):
        run(model, tokenizer, **options)


def test_a_model_whose_numbers_are_none_is_an_error(model: Any, tokenizer: Any) -> None:
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"tasks\.choices: row 0: the model's log-likelihoods are not finite"):
        run(model, tokenizer)


def test_tokenizers_that_the_harness_would_score_wrongly(make_llama: MakeModel) -> None:
    ending = sentencepiece_like_tokenizer(add_eos=True)
    with pytest.raises(InputError, match="puts its eos token behind every text"):
        run(make_llama(vocab_size=len(ending)), ending)
    endless = byte_level_tokenizer()
    endless.eos_token = None
    with pytest.raises(InputError, match="no eos token"):
        run(make_llama(vocab_size=len(endless)), endless)


def test_a_harness_that_is_not_installed(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"pip install 'multilora\[eval\]'"):
        run(model, tokenizer)


def test_on_real_weights_an_untrained_adapter_is_its_base(data_dir: Path) -> None:
    folder = data_dir / "models" / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    base = run(model, tokenizer)
    same(run(get_peft_model(model, ADAPTER), tokenizer), base, abs=0)
    assert base["choices"].metrics["accuracy"].count == len(PROMPTS)
