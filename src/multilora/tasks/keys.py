"""The key of a row: what makes two rows the same question.

It is a hash of the question itself (`Example.key`; prompt and choices where that is empty). Before it is hashed the
text is normalised: Unicode NFKC, case-folded, every run of white space and punctuation one space. What distinguishes
formulas is kept, each sign as a separate word: symbols (Unicode's category S, such as + = < ^ $), the signs * / % & # @
and the backslash, and a dash before a digit. (Without them MMLU's Q(√2, √3) and Q(√2*√3), two questions, would be one.)
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from hashlib import blake2b

from multilora.tasks.example import Example

KEY_BYTES = 16
_MEANT_PUNCTUATION = "*/%&#@\\"
_MINUS = "\N{MINUS SIGN}"
_DASH_BEFORE_DIGIT = re.compile(r"[-\u2010-\u2015](?=\s*\d)")


def key_of(row: Example) -> bytes:
    """The row's key, `KEY_BYTES` long: equal for equal questions, whatever is put around them."""
    return _hash(row.key) if row.key else text_key_of(row)


def text_key_of(row: Example) -> bytes:
    """The key of the whole prompt and choices, as a row has it that holds them ready-made."""
    return _hash("\n".join((row.prompt, *row.choices)))


def _hash(text: str) -> bytes:
    return blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def normalised(text: str) -> str:
    """The text as keys compare it, by the rule above.

    A text of nothing but punctuation keeps it, or all such texts would be equal.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace(_MINUS, "-")
    words = _DASH_BEFORE_DIGIT.sub(_MINUS, folded).translate(_signs()).split()
    return " ".join(words or folded.split())


class _Signs(dict[int, str]):
    """A table for `str.translate`, filled on demand because Unicode has over a million code points."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf":  # a soft hyphen or a joiner is inside a word
            becomes = ""
        elif category[0] == "S" or character in _MEANT_PUNCTUATION:
            becomes = f" {character} "
        else:
            becomes = " " if category[0] in "PZC" else character
        self[code] = becomes
        return becomes


@cache
def _signs() -> _Signs:
    return _Signs()
