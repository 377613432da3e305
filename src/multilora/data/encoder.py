"""From examples to token ids, with an exact boundary between prompt and completion.

The prompt is encoded alone, with the special tokens that the tokenizer adds at inference: training sees the ids that a
caller of `generate` sees. The completion is encoded as the continuation of a text, without special tokens, and ends in
one end-of-sequence token. No token spans the boundary, so the loss covers the completion and nothing else, and
prompt + completion decodes to the text of both (sentencepiece-like tokenizers put a space before a text that is
encoded alone; here they do not).

A conversation is text by the chat template (`chat_pieces`), which writes the special tokens itself. It is encoded piece
by piece, the first one as inference encodes it and the others as continuations, so that no token spans the beginning or
the end of what the assistant says. Where the template ends the last turn with no special token, an eos does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from multilora.data.chat import chat_pieces
from multilora.errors import InputError
from multilora.tasks.example import Conversation, Example

# Token ids, and whether the loss has them.
Segment = tuple[list[int], bool]

# Characters put before a completion so that it is encoded as a continuation, then cut off again. Several, because a
# tokenizer may join one of them with what follows ("\n" with "\n").
_PROBES = ("\n", "|", "a", "0")


class PromptCompletionEncoder:
    """A tokenizer for prompts and completions, as the module's text says.

    Raises:
        InputError: the tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise InputError(
                "model: the tokenizer has no eos token, so a completion would have no end; set `eos_token` in the "
                "model folder's tokenizer_config.json"
            )
        self.eos: int = tokenizer.eos_token_id
        self._bos: int | None = tokenizer.bos_token_id
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        plain, full = self._ids(["a"])[0], self._ids(["a"], special=True)[0]
        # What the tokenizer adds at the end (some add eos) ends a text; a prompt continues.
        self._suffix = full[_find(plain, full) + len(plain) :]
        self._prefixes_alone = plain != self._continuation("a", _PROBES[:1])

    def rendered(self, conversation: Conversation) -> Conversation:
        """The conversation with its text (`Conversation.pieces`).

        Raises:
            UnusableRowError, ChatTemplateError: as `chat_pieces`.
        """
        return replace(conversation, pieces=tuple(chat_pieces(self._tokenizer, conversation)))

    def segments(self, examples: Sequence[Example]) -> list[list[Segment]]:
        """Each example's token ids, cut where the loss begins or ends: prompt and completion, or turns.

        Raises:
            UnusableRowError, ChatTemplateError: as `chat_pieces`, of conversations that are not `rendered` yet.
        """
        plain = iter(self._plain([example for example in examples if not isinstance(example, Conversation)]))
        talks = iter(self._talks([example for example in examples if isinstance(example, Conversation)]))
        return [next(talks if isinstance(example, Conversation) else plain) for example in examples]

    def _plain(self, examples: Sequence[Example]) -> list[list[Segment]]:
        prompts = self.prompts([example.prompt for example in examples])
        completions = self.completions([example.completion for example in examples])
        return [[(prompt, False), (completion, True)] for prompt, completion in zip(prompts, completions, strict=True)]

    def _talks(self, conversations: Sequence[Conversation]) -> list[list[Segment]]:
        texts = [(talk if talk.pieces else self.rendered(talk)).pieces for talk in conversations]
        rest = [text for pieces in texts for text, _ in pieces[1:]]
        heads = self._ids([pieces[0][0] for pieces in texts])
        tails = iter(self._continuations(rest) if self._prefixes_alone else self._ids(rest))
        talks: list[list[Segment]] = []
        for head, pieces in zip(heads, texts, strict=True):
            segments = [(head, pieces[0][1]), *((next(tails), learnt) for _, learnt in pieces[1:])]
            ids, learnt = segments[-1]
            if ids[-1] not in self._special:
                segments[-1] = ([*ids, self.eos], learnt)
            talks.append(segments)
        return talks

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt as inference sees it, with one bos where the tokenizer adds it."""
        return [self._as_beginning(ids) for ids in self._ids(texts, special=True)]

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each completion as a continuation, with one eos at the end."""
        encoded = self._continuations(texts) if self._prefixes_alone else self._ids(texts)
        return [ids if ids[-1:] == [self.eos] else [*ids, self.eos] for ids in encoded]

    def _ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"]

    def _as_beginning(self, ids: list[int]) -> list[int]:
        if self._suffix and ids[-len(self._suffix) :] == self._suffix:
            ids = ids[: -len(self._suffix)]
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:  # one of the tokenizer, one of the template
            ids = ids[1:]
        return ids

    def _continuations(self, texts: Sequence[str]) -> list[list[int]]:
        probe = self._ids(_PROBES[:1])[0]
        encoded = self._ids([_PROBES[0] + text for text in texts])
        return [
            ids[len(probe) :] if ids[: len(probe)] == probe else self._continuation(text, _PROBES[1:])
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _continuation(self, text: str, probes: Sequence[str]) -> list[int]:
        for probe in probes:
            head, ids = self._ids([probe, probe + text])
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._ids([text])[0]


def _find(part: list[int], whole: list[int]) -> int:
    """Where `part` begins in `whole`."""
    return next((i for i in range(len(whole)) if whole[i : i + len(part)] == part), 0)
