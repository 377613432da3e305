"""Prompts that do not fit into the model's context, counted as the harness counts: it truncates them silently.

The harness (HFLM) scores a choice on the tokens of prompt + choice, but for the last one, which nothing follows; and it
generates with room for the new tokens. What does not fit it cuts off the prompt's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multilora.errors import InputError

OnLongPrompt = Literal["drop", "truncate_left", "fail"]


@dataclass(frozen=True)
class Needs:
    """What requests need of the context.

    Attributes:
        tokens: (requests,) tokens of context for the whole request.
        least: (requests,) what cannot be cut: the choice, or the room for new tokens.
    """

    tokens: NDArray[np.int64]
    least: NDArray[np.int64]

    def largest_by(self, owners: Sequence[int]) -> Needs:
        """Of requests that belong together (equal owner; owners ascend from 0) what the one in most need needs."""
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        return Needs(np.maximum.reduceat(self.tokens, starts), np.maximum.reduceat(self.least, starts))


@dataclass(frozen=True)
class LongPrompts:
    """Rows whose prompt, with the longest choice or with the new tokens, is longer than the context.

    Attributes:
        count: how many rows; `share` of those to evaluate.
        share: between 0 and 1.
        dropped: rows left out: the long ones, all rows of a question of which one is left out, and when truncating
            only those whose choice or new tokens alone fill the context.
        max_length: tokens of the context.
        handling: what was to be done with them.
    """

    count: int
    share: float
    dropped: int
    max_length: int
    handling: OnLongPrompt

    def note(self, name: str, rows: int) -> str:
        """One line about them; empty if all fit."""
        if not self.count:
            return ""
        done = {"drop": "dropped", "fail": "", "truncate_left": "their prompts truncated from the left"}[self.handling]
        also = f" ({self.dropped:,} dropped)" if self.handling == "truncate_left" and self.dropped else ""
        with_them = f", {self.dropped:,} rows with the rest of their questions" if self.dropped > self.count else ""
        return (
            f"{name}: {self.count:,} of {rows:,} rows ({100 * self.share:.1f} %) do not fit into {self.max_length:,} "
            f"tokens: {done}{also}{with_them}"
        )


def sort_out(
    needs: Needs, max_length: int, handling: OnLongPrompt, units: Sequence[str], places: Sequence[str]
) -> tuple[list[int], LongPrompts]:
    """The numbers of the rows that are evaluated, and what is with the long ones.

    Args:
        needs: of each row.
        max_length: tokens of the context.
        handling: of the rows that do not fit.
        units: of each row; rows of one unit are left out together.
        places: what to call each row in a message.

    Raises:
        InputError: a row does not fit, and that is to stop it.
    """
    long = needs.tokens > max_length
    if handling == "fail" and long.any():
        first = int(np.flatnonzero(long)[0])
        raise InputError(
            f"{places[first]} needs {needs.tokens[first]:,} tokens, more than the context of {max_length:,} (as do "
            f"{int(long.sum()) - 1:,} other rows); set on_long_prompt to drop or truncate_left"
        )
    out = long if handling == "drop" else needs.least > max_length
    without = {units[number] for number in np.flatnonzero(out).tolist()}
    kept = [number for number, unit in enumerate(units) if unit not in without]
    count = int(long.sum())
    return kept, LongPrompts(count, count / len(units), len(units) - len(kept), max_length, handling)


def needs_of_choices(lm: Any, pairs: Sequence[tuple[str, str]], places: Sequence[str]) -> Needs:
    """What scoring choices needs, by the harness's own rules of splitting a text into prompt and choice.

    Args:
        lm: the harness's model.
        pairs: (prompt, choice) of every request.
        places: what to call each request in a message.

    Raises:
        InputError: a choice has no token of its own after its prompt, or nothing is before it.
    """
    splits = [_split(prompt, choice) for prompt, choice in pairs]
    counts = _token_counts(lm, [text for context, rest in splits for text in (context, context + rest)])
    before = np.array([counts[context] for context, _ in splits], dtype=np.int64)
    whole = np.array([counts[context + rest] for context, rest in splits], dtype=np.int64)
    for number in [number for number, (prompt, _) in enumerate(pairs) if not prompt]:
        before[number], whole[number] = 1, _tokens_after_nothing(lm, pairs[number][1])
    for number in np.flatnonzero((whole <= before) | (before == 0))[:1]:
        raise InputError(
            f"{places[number]}: with this tokenizer the choice {pairs[number][1]!r} has no token of its own after the "
            "prompt, or the prompt none, so it cannot be scored; change the prompt's end or the choice"
        )
    return Needs(whole - 1, whole - before)


def needs_of_generation(lm: Any, prompts: Sequence[str], new_tokens: Sequence[int], places: Sequence[str]) -> Needs:
    """What generating needs: the prompt and room for the new tokens.

    Args:
        lm: the harness's model.
        prompts: of every request.
        new_tokens: at most this many for each.
        places: what to call each request in a message.

    Raises:
        InputError: a prompt has no token, so that nothing can be generated from it.
    """
    counts = _token_counts(lm, prompts)
    tokens, room = (np.array(values, dtype=np.int64) for values in ([counts[prompt] for prompt in prompts], new_tokens))
    for number in np.flatnonzero(tokens == 0)[:1]:
        raise InputError(f"{places[number]}: the prompt has no token, so there is nothing to generate from")
    return Needs(tokens + room, room + 1)


def context_length(config: Any, tokenizer: Any, max_length: int | None) -> int:
    """The context in tokens: what the model can take, or less if asked for.

    Raises:
        InputError: more is asked for than the model can take.
    """
    from lm_eval.models.utils import resolve_max_length

    own = resolve_max_length(config, tokenizer)
    if max_length is not None and max_length > own:
        raise InputError(f"max_length: the model takes {own:,} tokens at most; got {max_length:,}")
    return max_length or own


def _split(prompt: str, choice: str) -> tuple[str, str]:
    """As `TemplateLM._encode_pair` does: white space at the prompt's end belongs to the choice."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + choice


def _tokens_after_nothing(lm: Any, choice: str) -> int:
    """As `TemplateLM.loglikelihood` does: a choice after an empty prompt comes after one special token."""
    ids = lm.tok_encode(choice, add_special_tokens=False)
    return len(ids) + (ids[:1] != [lm.prefix_token_id])


def _token_counts(lm: Any, texts: Sequence[str]) -> dict[str, int]:
    """Tokens of each text, as `HFLM.tok_encode` encodes it, many at once."""
    from lm_eval.models.utils import has_bos_prefix

    bos = lm.tokenizer.decode(lm.prefix_token_id)
    counts: dict[str, int] = {}
    for begun in (False, True):
        some = [text for text in dict.fromkeys(texts) if has_bos_prefix(text, bos) == begun]
        if some:
            options = {"add_special_tokens": False} if begun else {}
            encoded = lm.tokenizer(some, return_attention_mask=False, verbose=False, **options)["input_ids"]
            counts |= zip(some, map(len, encoded), strict=True)
    return counts
