"""Prompts that do not fit are counted exactly as the harness counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from evaluation.in_memory import NUMBER, GivenTask, yes_no
from multilora import InputError
from multilora.tasks.example import Example
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")

from multilora.evaluation.harness import evaluate_tasks
from multilora.evaluation.long_prompts import Needs, context_length, needs_of_choices, needs_of_generation, sort_out
from multilora.evaluation.runner import Runner

MakeModel = Callable[..., PreTrainedModel]
TOKENIZERS = pytest.mark.parametrize("make_tokenizer", [byte_level_tokenizer, sentencepiece_like_tokenizer])
PROMPTS = ["one two", "one two ", "the sum of\n\n", "", "  ", "<s>one two", "é ☃"]
CHOICES = [" three", "three", "  so on", "\nten", "<s>"]


@TOKENIZERS
def test_needs_are_what_the_harness_encodes(make_tokenizer: Callable[[], Any], make_llama: MakeModel) -> None:
    tokenizer = make_tokenizer()
    lm = Runner(make_llama(vocab_size=len(tokenizer)), tokenizer, 4, 64).lm
    encoded: list[tuple[list[int], list[int]]] = []
    lm._loglikelihood_tokens = lambda requests, **_: encoded.extend((before, after) for _, before, after in requests)
    from lm_eval.api.instance import Instance

    pairs = [(prompt, choice) for prompt in PROMPTS for choice in CHOICES]
    lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    scored = [number for number, (before, after) in enumerate(encoded) if before and after]
    needs = needs_of_choices(lm, [pairs[number] for number in scored], [""] * len(scored))
    assert needs.tokens.tolist() == [len(encoded[number][0]) + len(encoded[number][1]) - 1 for number in scored]
    assert needs.least.tolist() == [len(encoded[number][1]) for number in scored]
    assert len(scored) > len(pairs) - len(CHOICES) - 2
    for number in set(range(len(pairs))) - set(scored):
        with pytest.raises(InputError, match=r"row 7: with this tokenizer the choice .* has no token of its own"):
            needs_of_choices(lm, [pairs[number]], ["row 7"])


@TOKENIZERS
def test_needs_of_generation_are_what_the_harness_encodes(
    make_tokenizer: Callable[[], Any], make_llama: MakeModel
) -> None:
    tokenizer = make_tokenizer()
    lm = Runner(make_llama(vocab_size=len(tokenizer)), tokenizer, 4, 64).lm
    prompts = [prompt for prompt in PROMPTS if prompt.strip()]
    needs = needs_of_generation(lm, prompts, [5] * len(prompts), prompts)
    assert needs.tokens.tolist() == [lm.tok_batch_encode([prompt])[0].shape[1] + 5 for prompt in prompts]
    assert needs.least.tolist() == [6] * len(prompts)


def test_a_prompt_without_tokens_generates_nothing(make_llama: MakeModel) -> None:
    tokenizer = byte_level_tokenizer()  # adds no bos
    lm = Runner(make_llama(vocab_size=len(tokenizer)), tokenizer, 4, 64).lm
    with pytest.raises(InputError, match="row 1: the prompt has no token"):
        needs_of_generation(lm, [""], [5], ["row 1"])


def needs(tokens: Sequence[int], least: Sequence[int]) -> Needs:
    return Needs(np.array(tokens), np.array(least))


def test_a_rows_need_is_that_of_its_longest_request() -> None:
    largest = needs([3, 5, 2, 9], [1, 2, 4, 3]).largest_by([0, 0, 1, 1])
    assert (largest.tokens.tolist(), largest.least.tolist()) == ([5, 9], [2, 4])


def test_dropping_takes_the_rest_of_a_question_along() -> None:
    kept, long = sort_out(needs([3, 9, 3, 3], [1, 1, 1, 1]), 5, "drop", ["a", "a", "b", "b"], [""] * 4)
    assert kept == [2, 3]
    assert (long.count, long.share, long.dropped) == (1, 0.25, 2)
    assert "1 of 4 rows (25.0 %) do not fit into 5 tokens: dropped, 2 rows with the rest" in long.note("t", 4)


def test_truncating_keeps_all_but_what_cannot_be_cut() -> None:
    kept, long = sort_out(needs([3, 9, 9], [1, 1, 7]), 5, "truncate_left", ["a", "b", "c"], [""] * 3)
    assert kept == [0, 1]
    assert (long.count, long.dropped) == (2, 1)
    assert "truncated from the left (1 dropped)" in long.note("t", 3)


def test_failing_names_the_first_row_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"row 2 needs 9 tokens, more than the context of 5 \(as do 1 other rows\)"):
        sort_out(needs([3, 9, 9], [1, 1, 1]), 5, "fail", ["a", "b", "c"], ["row 1", "row 2", "row 3"])
    kept, long = sort_out(needs([3], [1]), 5, "fail", ["a"], ["row 1"])
    assert (kept, long.count, long.note("t", 1)) == ([0], 0, "")


def test_the_context_is_the_models_or_less(make_llama: MakeModel) -> None:
    config = make_llama().config
    assert context_length(config, byte_level_tokenizer(), None) == 64
    assert context_length(config, byte_level_tokenizer(), 20) == 20
    with pytest.raises(InputError, match="max_length: the model takes 64 tokens at most; got 65"):
        context_length(config, byte_level_tokenizer(), 65)


# In an evaluation -------------------------------------------------------------------------------------------------


@pytest.fixture
def truncations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The harness's own warnings of truncation, which it gives for each request."""
    from lm_eval.models import huggingface

    told: list[str] = []
    monkeypatch.setattr(huggingface.eval_logger, "warning", lambda text, *_: told.append(str(text)))
    return told


@pytest.mark.parametrize("max_length", [12, 13, 14, 64])
def test_the_harness_truncates_exactly_the_long_ones(
    max_length: int, make_llama: MakeModel, truncations: list[str]
) -> None:
    tokenizer = byte_level_tokenizer()
    prompts = ["one " * count + ":" for count in range(4, 20)]
    model = make_llama(vocab_size=len(tokenizer))
    for handling, expected in (("drop", False), ("truncate_left", True)):
        truncations.clear()
        found = evaluate_tasks(
            model, tokenizer, [GivenTask("t", yes_no(prompts))], on_long_prompt=handling, max_length=max_length
        ).tasks["t"]
        assert found.long_prompts is not None
        told = [text for text in truncations if text.startswith("Combined length")]
        # Both choices have one token, so that the harness runs a row once.
        assert len(told) == (found.long_prompts.count if expected else 0)
        assert len(found.predictions) == len(prompts) - (0 if expected else found.long_prompts.count)
        assert (found.long_prompts.count > 0) == (max_length < 64)


@pytest.mark.parametrize("handling", ["drop", "truncate_left"])
def test_where_nothing_is_left_there_is_no_score_and_no_crash(handling: Any, make_llama: MakeModel) -> None:
    tokenizer = byte_level_tokenizer()
    model, notes = make_llama(vocab_size=len(tokenizer)), list[str]()
    number = Example("Question: one", " #### 1", "line 1", answers=("1",))
    long = yes_no(["one " * 100]) if handling == "drop" else []
    tasks = [GivenTask("n", [number], NUMBER), *([GivenTask("c", long)] if long else [])]
    evaluation = evaluate_tasks(model, tokenizer, tasks, on_long_prompt=handling, note=notes.append)
    for name, found in evaluation.tasks.items():
        assert [(score.value, score.interval, score.count) for score in found.metrics.values()] == [(None, None, 0)]
        assert found.long_prompts is not None
        assert (found.long_prompts.count, found.long_prompts.dropped, found.predictions) == (1, 1, [])
        assert f"{name}: no row is left" in notes
