"""A tokenizer's losses are found, and its own additions are none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data.rows_in_memory import RowsTask, rows_task
from effort import examples
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.round_trip import RoundTrip, round_trip, spread
from multilora.tasks.example import BadRow, Conversation, Example
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

LOSSLESS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level_tokenizer,
    "sentencepiece-like": sentencepiece_like_tokenizer,
    "with eos": lambda: sentencepiece_like_tokenizer(add_eos=True),
}


def tried(rows: list[Example | BadRow], tokenizer: Any) -> RoundTrip:
    return round_trip(RowsTask("t", lambda: rows), len(rows), PromptCompletionEncoder(tokenizer), tokenizer)


@pytest.fixture(scope="module", params=LOSSLESS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return LOSSLESS[request.param]()


PIECES = st.lists(st.sampled_from(["one", " two", "\n", "  ", "é", "+", "日", "🙂", ".", "\t"]), min_size=1).map(
    "".join
)


@settings(max_examples=examples(50), deadline=None)
@given(PIECES, PIECES)
def test_what_a_lossless_tokenizer_adds_is_no_change(tokenizer: Any, prompt: str, completion: str) -> None:
    assert tried([Example(prompt, completion + "x", "s")], tokenizer) == RoundTrip(1, 0, "")


def test_a_template_may_spell_out_the_special_tokens(tokenizer: Any) -> None:
    assert tried([Example("<s>one", " two</s>", "s")], tokenizer).differing == 0


def test_what_is_lost_is_counted_and_named() -> None:
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(["?", "</s>", *"abc ="])}, [], unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    lossy = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="</s>")
    texts = ["a=b", "a+b", "a+c%", "abc"]
    trip = tried(list(rows_task("t", texts).train()), lossy)
    assert trip.rows == 4
    assert trip.share == trip.differing / 4
    assert trip.lost.startswith("x")  # of every completion
    assert trip.lost[1:] == "+%"


def test_bad_rows_are_not_tried(tokenizer: Any) -> None:
    trip = tried([BadRow("s", "bad"), Example("a", "b", "s")], tokenizer)
    assert (trip.rows, trip.share) == (1, 0)
    assert tried([BadRow("s", "bad")], tokenizer).share == 0


TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_a_conversation_is_tried_as_the_template_writes_it() -> None:
    messages = [{"role": role, "content": text} for role, text in (("user", "one?"), ("assistant", "é 🙂"))]
    refusing = TURNS + "{{ raise_exception('no') }}"
    talks = [
        Conversation("one?", "é 🙂", "s", messages=tuple(messages), template=template)
        for template in (TURNS + "{% if add_generation_prompt %}assistant: {% endif %}", refusing)
    ]
    assert tried([*talks], byte_level_tokenizer()) == RoundTrip(1, 0, "")


def test_rows_are_spread_evenly() -> None:
    assert spread(3, 5) == [0, 1, 2]
    assert spread(0, 5) == []
    assert spread(10, 0) == []
    chosen = spread(1000, 7)
    assert len(chosen) == 7
    assert {b - a for a, b in pairwise(chosen)} <= {142, 143}
