"""Conversations as text, by the tokenizer's chat template, cut where the assistant begins and where its turn ends.

A turn begins where the text of the history with the generation prompt ends, and it ends where the text of the history
with the turn does. Both must be the beginning of the whole text, or training would see something else than inference.
What the template puts at a turn's end, such as `<|im_end|>`, is the assistant's; white space after it is not, since
generation is over by then. Where a template marks the assistant's part itself, by `{% generation %}`, that is taken,
without white space after an end marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError

from multilora.errors import InputError
from multilora.tasks.example import Conversation
from multilora.tasks.rows import UnusableRowError

# A piece of text, and whether the loss has it.
Piece = tuple[str, bool]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TAGS = "{% generation %} … {% endgeneration %}"


class ChatTemplateError(InputError):
    """The chat template cannot be used; the message says why, and what to do."""


def chat_pieces(tokenizer: Any, conversation: Conversation) -> list[Piece]:
    """The conversation's text up to the end of the assistant's last turn. Empty pieces are left out.

    Args:
        tokenizer: a tokenizer of transformers.
        conversation: with at least one turn of the assistant, and not as its first.

    Raises:
        UnusableRowError: the template refuses this conversation.
        ChatTemplateError: there is no template, it makes no sense, or it writes a turn otherwise once others follow.
    """
    template = _template(tokenizer, conversation)
    try:
        if _GENERATION.search(template):
            pieces = _by_tags(tokenizer, conversation, template)
        else:
            pieces = _by_prefixes(tokenizer, conversation, template)
    except TemplateSyntaxError as error:
        raise ChatTemplateError(f"the chat template is not Jinja: {error.message} (line {error.lineno})") from error
    except (TemplateError, TypeError) as error:  # raised by the template itself, or by what it does with a message
        raise UnusableRowError(f"the chat template refuses the conversation: {error}") from error
    pieces = [(text, learnt) for text, learnt in pieces if text]
    while pieces and not pieces[-1][1]:
        pieces.pop()
    if not pieces:
        raise UnusableRowError("the chat template writes nothing of what the assistant says")
    return pieces


def _template(tokenizer: Any, conversation: Conversation) -> str:
    if conversation.template:
        return conversation.template
    try:
        return tokenizer.get_chat_template(tools=conversation.tools or None)
    except ValueError as error:
        raise ChatTemplateError(
            "the tokenizer has no chat template; give one here: a Jinja file, or the template's text"
        ) from error


def _by_prefixes(tokenizer: Any, conversation: Conversation, template: str) -> list[Piece]:
    messages = list(conversation.messages)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]

    def render(count: int, generation: bool) -> str:
        return tokenizer.apply_chat_template(
            messages[:count],
            tools=list(conversation.tools) or None,
            chat_template=template,
            add_generation_prompt=generation,
            tokenize=False,
        )

    whole = render(turns[-1] + 1, generation=False)
    pieces, done = list[Piece](), 0
    for turn in turns:
        before, after = render(turn, generation=True), render(turn + 1, generation=False)
        _check_law(turn, before, after, whole)
        end = len(before) + len(_said(after[len(before) :], messages[turn]["content"]))
        pieces += [(whole[done : len(before)], False), (whole[len(before) : end], True)]
        done = end
    return pieces


def _check_law(turn: int, before: str, after: str, whole: str) -> None:
    remedy = f"give a template with {_TAGS} around what the assistant says, or one that writes every turn alike"
    if not after.startswith(before):
        raise ChatTemplateError(
            f"the chat template writes the history before turn {turn + 1} with the generation prompt as "
            f"{before[-60:]!r}, and the same history with the turn otherwise; {remedy}"
        )
    if not whole.startswith(after):
        raise ChatTemplateError(
            f"the chat template writes turn {turn + 1} as {after[len(before) :][:60]!r}, and otherwise once others "
            f"follow, as templates do that leave out earlier reasoning; {remedy}"
        )


def _said(text: str, content: str) -> str:
    """The turn's text without the white space after its end marker. Where white space is all that ends it, it stays."""
    said, written = content.strip(), text.strip()
    # By what follows the content; its last characters may well be those of the marker.
    marked = written != said if written.startswith(said) else not written.endswith(said)
    return text.rstrip() if marked else text


def _by_tags(tokenizer: Any, conversation: Conversation, template: str) -> list[Piece]:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{name: value for name, value in turn.items() if value is not None} for turn in conversation.messages]
    rendered, spans = cast(
        tuple[Sequence[str], Sequence[Sequence[tuple[int, int]]]],
        render_jinja_template(
            conversations=[messages],
            tools=cast(Any, list(conversation.tools) or None),
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        ),
    )
    whole, ends = rendered[0], _special_tokens(tokenizer)
    pieces, done = list[Piece](), 0
    for begin, end in spans[0]:
        marked = whole[begin:end]
        if marked.rstrip().endswith(ends):  # many templates mark the line break after the end marker too
            marked = marked.rstrip()
        pieces += [(whole[done:begin], False), (marked, True)]
        done = begin + len(marked)
    _check_tags(pieces, conversation)
    return pieces


def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return (*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special))


def _check_tags(pieces: Sequence[Piece], conversation: Conversation) -> None:
    """Jinja says where a tag stands in the text only outside of macros; inside, it names another place in silence."""
    last = next(turn for turn in reversed(conversation.messages) if turn["role"] == "assistant")
    answer = last["content"].rpartition("</think>")[2].strip()
    marked = "".join(text for text, learnt in pieces if learnt)
    if marked and answer not in marked:
        raise ChatTemplateError(
            f"the chat template's tags {_TAGS} mark {marked[-60:]!r}, and the assistant says {answer[:60]!r}; put them "
            "around what the assistant says, and not into a macro"
        )
