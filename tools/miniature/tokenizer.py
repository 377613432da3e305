"""The miniature's tokenizer: one token per known word, bytes for everything else.

A byte-level BPE without merges: a piece of text that is in the vocabulary is one token, any other becomes its bytes, so
every text comes back as it was. Pieces are words, runs of punctuation and single digits, each with the space before it.
A bos token is put before every text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
_PIECE = r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s"


def known_pieces(texts: Iterable[str]) -> list[str]:
    """The pieces of the texts, sorted: the same whatever the texts' order."""
    return sorted({piece for text in texts for piece in re.findall(_PIECE, text)})


def make_tokenizer(pieces: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer for these pieces.

    Args:
        pieces: the vocabulary beside special tokens and bytes.
        max_length: the model's context.
    """
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [name for piece in pieces for name, _ in to_bytes.pre_tokenize_str(piece)]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECE), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
