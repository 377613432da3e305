"""The tokenizer: lossless, a token per word, digits one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.miniature.tokenizer import SPECIAL, known_pieces, make_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Made, saved and loaded."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(known_pieces(["The cat has 12 wings.", ' "No," said Ann.\n7 + 5 = 12.']), 256).save_pretrained(
        folder
    )
    return AutoTokenizer.from_pretrained(folder)


@given(st.text())
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in SPECIAL):
        assert tokenizer.decode(ids) == text


@given(st.text(alphabet="abc 1?\n"), st.text(alphabet="abc 1?\n", min_size=1))
def test_a_completion_after_a_space_is_encoded_as_in_the_whole(
    tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    if prompt.endswith(("\n", "?", "a", "1")) and completion.strip():
        text = f" {completion.lstrip()}"
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text)]
        assert tokenizer(prompt + text, add_special_tokens=False)["input_ids"] == parts[0] + parts[1]


def test_words_are_one_token_and_digits_one_each(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("The cat has 12 wings.", add_special_tokens=False)["input_ids"])
    assert pieces == ["The", "Ġcat", "Ġhas", "Ġ1", "2", "Ġwings", "."]


def test_bos_stands_before_a_text_and_every_special_token_is_there(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("cat")["input_ids"][0] == tokenizer.bos_token_id
    ids = [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert ids == [0, 1, 2, 3]


def test_vocabulary_does_not_depend_on_the_order_of_texts() -> None:
    texts = ["one two", "two three", "3 + 4 = 7."]
    assert known_pieces(texts) == known_pieces(reversed(texts))
