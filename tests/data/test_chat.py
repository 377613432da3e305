"""Conversations with tokenizers of several kinds; `test_conversation.py` has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multilora.data.encoder import PromptCompletionEncoder, Segment
from multilora.tasks.example import Conversation
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('no system role, please') }}{% endif %}{% endfor %}"
)
TAGS = (
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}"
    "{{ '<|im_start|>assistant\n<think></think>' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{%- else -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
)
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
PLAIN += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# What of a turn's content the loss has, with its end.
ENDS = {
    "ChatML": (CHATML, "{}<|im_end|>"),
    "Llama 3": (LLAMA3, "{}<|eot_id|>"),
    "INST": (INST, " {}</s>"),
    "tags": (TAGS, "{}<|im_end|>"),
    "plain": (PLAIN, "{}\n"),
}


def with_special(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


TOKENIZERS = {
    "byte-level": with_special(byte_level_tokenizer()),
    "sentencepiece-like": with_special(sentencepiece_like_tokenizer()),
    "without chat tokens": byte_level_tokenizer(),
}


def talk(template: str, *texts: str, system: str = "", **more: Any) -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
    return Conversation("p", texts[-1], "f line 1", messages=tuple(messages), template=template, **more)


def encoded(tokenizer: Any, conversation: Conversation) -> list[Segment]:
    (segments,) = PromptCompletionEncoder(tokenizer).segments([conversation])
    return segments


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def learnt_texts(tokenizer: Any, segments: Sequence[Segment]) -> list[str]:
    """Text of each learnt segment, decoded within the whole: a text's beginning is decoded in a way of its own."""
    ids, texts = list[int](), list[str]()
    for part, learnt in segments:
        before = decoded(tokenizer, ids)
        ids += part
        if learnt:
            texts.append(decoded(tokenizer, ids).removeprefix(before))
    return texts


# Exactly what the assistant says ------------------------------------------------------------------------------------

TEXT = (
    st.text(st.characters(codec="utf-8", exclude_characters="<▁"), min_size=1, max_size=12).map(str.strip).filter(bool)
)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ENDS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
@example(texts=[">", "0"])  # ends as ChatML's end marker does
def test_the_loss_has_the_assistants_words_and_their_ends(name: str, template: str, texts: list[str]) -> None:
    tokenizer, (jinja, end) = TOKENIZERS[name], ENDS[template]
    said = [part for text in texts for part in (f"{text}?", text)]
    segments = encoded(tokenizer, talk(jinja, *said))
    assert [learnt for _, learnt in segments] == [False, True] * len(texts)
    wanted = [end.format(text) for text in texts]
    if segments[-1][0][-1] == tokenizer.eos_token_id and not wanted[-1].endswith("</s>"):
        wanted[-1] += "</s>"
        assert name == "without chat tokens" or template == "plain"
    assert learnt_texts(tokenizer, segments) == wanted


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["ChatML", "Llama 3", "INST", "plain"])
def test_the_ids_before_the_first_turn_are_those_of_inference(name: str, template: str) -> None:
    tokenizer, conversation = TOKENIZERS[name], talk(ENDS[template][0], "one two", "three", "four", "five")
    history = list(conversation.messages[:1])
    ids = tokenizer.apply_chat_template(history, chat_template=conversation.template, add_generation_prompt=True)
    assert encoded(tokenizer, conversation)[0] == (ids["input_ids"], False)


def test_a_system_turn_and_two_turns_in_a_row_of_the_assistant() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    segments = encoded(tokenizer, talk(CHATML, "one", "two", system="be kind"))
    assert decoded(tokenizer, segments[0][0]).startswith("<|im_start|>system\nbe kind<|im_end|>\n")
    messages = [("user", "a"), ("assistant", "b"), ("assistant", "c")]
    turns = tuple({"role": role, "content": text} for role, text in messages)
    both = encoded(tokenizer, Conversation("p", "c", "s", messages=turns, template=CHATML))
    assert learnt_texts(tokenizer, both) == ["b<|im_end|>", "c<|im_end|>"]


def test_the_tokenizers_own_template_and_one_of_several_by_name() -> None:
    tokenizer = with_special(byte_level_tokenizer())
    tokenizer.chat_template = CHATML
    assert encoded(tokenizer, talk("", "one", "two")) == encoded(tokenizer, talk(CHATML, "one", "two"))
    tokenizer.chat_template = {"default": LLAMA3, "tool_use": "{{ tools | tojson }}" + CHATML}
    assert encoded(tokenizer, talk("", "one", "two")) == encoded(tokenizer, talk(LLAMA3, "one", "two"))
    assert decoded(tokenizer, encoded(tokenizer, talk("", "one", "two", tools=({},)))[0][0]).startswith("[{}]")


def test_a_real_tokenizer_with_a_template_given(data_dir: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "models" / "stories260K")
    for template, end in ((CHATML, "{}<|im_end|>"), (INST, " {}</s>"), (PLAIN, "{}\n"), (TAGS, "{}<|im_end|>")):
        segments = encoded(tokenizer, talk(template, "Who ran?", "The cat ran.", "Why?", "It saw a dog."))
        wanted = [end.format(text) for text in ("The cat ran.", "It saw a dog.")]
        if not wanted[-1].endswith("</s>"):
            wanted[-1] += "</s>"
        assert learnt_texts(tokenizer, segments) == wanted
