from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from effort import examples
from multilora import InputError
from multilora.data.encoding import EncodedTask, PromptCompletionEncoder, encode_task
from multilora.tasks.example import BadRow, Example
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

TOKENIZERS = {
    "byte-level": byte_level_tokenizer(),
    "sentencepiece-like": sentencepiece_like_tokenizer(),
    "sentencepiece-like with eos": sentencepiece_like_tokenizer(add_eos=True),
}
# Without "<" there are no special tokens spelled out, which are a matter of their own.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<▁"), min_size=1, max_size=20)


@dataclass(frozen=True)
class Rows:
    rows: list[Example | BadRow] = field(default_factory=list)
    name: str = "t"

    def check(self) -> None: ...

    def train_rows(self) -> Iterator[Example | BadRow]:
        yield from self.rows


def rows(*pairs: tuple[str, str]) -> Rows:
    return Rows([Example(prompt, completion, f"line {n}") for n, (prompt, completion) in enumerate(pairs, 1)])


def row(encoded: EncodedTask, number: int) -> list[int]:
    return encoded.input_ids[encoded.offsets[number] : encoded.offsets[number + 1]].tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=examples(100), deadline=None)
@given(prompt=TEXT, completion=TEXT)
def test_prompt_and_completion_decode_to_their_text_with_the_boundary_between(
    kind: str, prompt: str, completion: str
) -> None:
    tokenizer: Any = TOKENIZERS[kind]
    encoder = PromptCompletionEncoder(tokenizer)
    (head,), (tail,) = encoder.prompts([prompt]), encoder.completions([completion])
    bos = [tokenizer.bos_token_id] if kind != "byte-level" else []
    assert head[: len(bos)] == bos
    assert tail[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(head[len(bos) :] + tail[:-1])
    assert text == prompt + completion
    assert tokenizer.decode(head[len(bos) :]) == prompt


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece-like"])
def test_the_prompt_has_the_ids_that_inference_gives_it(kind: str) -> None:
    tokenizer: Any = TOKENIZERS[kind]
    texts = ["one two:", " one", "", "\n", "über"]
    assert PromptCompletionEncoder(tokenizer).prompts(texts) == tokenizer(texts)["input_ids"]


def test_an_eos_that_the_tokenizer_adds_does_not_end_the_prompt() -> None:
    plain, adding = TOKENIZERS["sentencepiece-like"], TOKENIZERS["sentencepiece-like with eos"]
    assert adding("one")["input_ids"][-1] == adding.eos_token_id
    for method in ("prompts", "completions"):
        texts = ["one two", "three"]
        assert getattr(PromptCompletionEncoder(adding), method)(texts) == getattr(
            PromptCompletionEncoder(plain), method
        )(texts)


def test_bos_and_eos_in_the_text_are_not_doubled() -> None:
    encoder = PromptCompletionEncoder(TOKENIZERS["sentencepiece-like"])
    assert encoder.prompts(["<s>one"])[0].count(1) == 1
    assert encoder.completions(["one</s>"])[0].count(2) == 1


def test_a_completion_that_joins_with_the_probe_still_continues() -> None:
    # "\n\n" is one token here, so the first probe cannot be told from the completion.
    tokenizer = sentencepiece_like_tokenizer()
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    for token in ("\n", "\n\n"):
        vocabulary[token] = len(vocabulary)
    data["model"]["merges"].append(["\n", "\n"])
    joining = type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(data)), bos_token="<s>", eos_token="</s>")
    assert joining("\n\n", add_special_tokens=False)["input_ids"][-1] == vocabulary["\n\n"]
    encoder = PromptCompletionEncoder(joining)
    (ids,) = encoder.completions(["\none"])
    assert joining.decode([*encoder.prompts(["a"])[0][1:], *ids[:-1]]) == "a\none"


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no eos token"):
        PromptCompletionEncoder(tokenizer)


def encoder() -> PromptCompletionEncoder:
    return PromptCompletionEncoder(TOKENIZERS["byte-level"])


def test_rows_stand_end_to_end_with_their_boundaries() -> None:
    pairs = [("one", " two"), ("three four", " five six"), ("x", "y")]
    encoded = encode_task(rows(*pairs), encoder(), max_length=100)
    assert len(encoded) == 3
    for number, (prompt, completion) in enumerate(pairs):
        (head,), (tail,) = encoder().prompts([prompt]), encoder().completions([completion])
        assert row(encoded, number) == head + tail
        start, end = encoded.offsets[number : number + 2]
        assert encoded.loss_mask[start:end].tolist() == [False] * len(head) + [True] * len(tail)
    assert encoded.counts.tokens == len(encoded.input_ids)
    assert encoded.counts.completion_tokens == encoded.loss_mask.sum()


def test_many_rows_are_the_same_as_in_one_batch() -> None:
    pairs = [(f"one {n}", f" {n}") for n in range(2500)]  # more than two batches
    encoded = encode_task(rows(*pairs), encoder(), max_length=100)
    assert len(encoded) == 2500
    for number in (0, 999, 1000, 1001, 2499):
        (head,), (tail,) = encoder().prompts([pairs[number][0]]), encoder().completions([pairs[number][1]])
        assert row(encoded, number) == head + tail


LONG = rows(("A", "B"), ("A", "BCDEFGHIJ"), ("ABCDEFGHIJKLM", "B"))  # 3, 11 and 15 tokens


def test_long_examples_are_dropped_and_counted() -> None:
    encoded = encode_task(LONG, encoder(), max_length=10)
    assert (encoded.counts.kept, encoded.counts.dropped, encoded.counts.truncated) == (1, 2, 0)
    assert "2 of 3 rows dropped" in encoded.counts.notes("t")[0]


def test_truncation_cuts_the_completion_and_drops_prompts_that_leave_no_room() -> None:
    encoded = encode_task(LONG, encoder(), max_length=10, on_long_example="truncate")
    assert (encoded.counts.kept, encoded.counts.dropped, encoded.counts.truncated) == (2, 1, 1)
    full = encoder().prompts(["A"])[0] + encoder().completions(["BCDEFGHIJ"])[0]
    assert row(encoded, 1) == full[:10]


def test_a_long_example_can_stop_the_run() -> None:
    with pytest.raises(InputError, match=r"line 2 has 11 tokens, more than training\.max_length = 10"):
        encode_task(LONG, encoder(), max_length=10, on_long_example="fail")


def test_an_example_of_exactly_max_length_is_kept_whole() -> None:
    for policy in ("drop", "truncate", "fail"):
        encoded = encode_task(rows(("A", "BCDEFGHIJ")), encoder(), max_length=11, on_long_example=policy)
        assert (encoded.counts.kept, encoded.counts.truncated, len(encoded.input_ids)) == (1, 0, 11)


def test_a_bad_row_stops_the_run_or_is_skipped_and_named() -> None:
    odd = [BadRow(f"f line {n}", "odd") for n in range(3, 10)]
    mixed = Rows([Example("a", "b", "line 1"), BadRow("f line 2", "not JSON"), *odd])
    with pytest.raises(InputError, match=r"tasks\.t: f line 2: not JSON.*on_bad_row to skip"):
        encode_task(mixed, encoder(), max_length=10)
    counts = encode_task(mixed, encoder(), max_length=10, on_bad_row="skip").counts
    assert (counts.rows, counts.kept, counts.skipped) == (9, 1, 8)
    (note,) = counts.notes("t")
    assert note == (
        "t: 8 of 9 rows skipped: f line 2 (not JSON); f line 3, f line 4, f line 5, f line 6 (odd); and 3 more"
    )


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Rows(), "the files have no rows"),
        (Rows([BadRow("f line 1", "odd")]), r"all 1 rows were skipped: f line 1 \(odd\)"),
        (rows(("A", "B" * 50)), "1 are longer than training.max_length"),
    ],
)
def test_nothing_left_is_an_error_that_says_why(task: Rows, why: str) -> None:
    with pytest.raises(InputError, match=why):
        encode_task(task, encoder(), max_length=10, on_bad_row="skip")


def test_the_fingerprint_tells_ids_and_boundaries_apart() -> None:
    def fingerprint(*pairs: tuple[str, str]) -> str:
        return encode_task(rows(*pairs), encoder(), max_length=50).fingerprint()

    assert fingerprint(("ab", "c"), ("d", "e")) == fingerprint(("ab", "c"), ("d", "e"))
    assert len({fingerprint(("ab", "c")), fingerprint(("a", "bc")), fingerprint(("ab", "d"))}) == 3


def test_arrays_are_compact() -> None:
    encoded = encode_task(rows(("a", "b")), encoder(), max_length=50)
    assert encoded.input_ids.dtype == np.int32
    assert encoded.loss_mask.dtype == np.bool_


def test_a_real_tokenizer_keeps_the_text(data_dir: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "models" / "stories260K")
    encoder = PromptCompletionEncoder(tokenizer)
    prompt, completion = "Question: 1 + 1?\nAnswer:", " 2 = <<1+1=2>>\n#### 2"
    (head,), (tail,) = encoder.prompts([prompt]), encoder.completions([completion])
    assert head == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode((head + tail)[1:-1]) == prompt + completion
