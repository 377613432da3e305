"""Conversations as token ids: the loss has what the assistant says and its end marker, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import chat_template_utils

from effort import examples
from multilora import InputError
from multilora.data.chat import ChatTemplateError, chat_pieces
from multilora.data.encoding import PromptCompletionEncoder, encode_task
from multilora.tasks.example import Conversation, Example
from multilora.tasks.rows import UnusableRowError
from tiny_run import byte_level_tokenizer, sentencepiece_like_tokenizer

MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The same with the assistant's part marked, in the two ways that are in use: the line break outside and inside.
TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGGED_WITH_BREAK = TAGGED.replace("'<|im_end|>' }}", "'<|im_end|>\n' }}").replace("{{ '\n' }}", "")
LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (  # no generation prompt; what is said begins with a space
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant take turns') }}{% endif %}{% endfor %}"
)
PLAIN = (  # no special tokens at all
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# As templates of reasoning models do: of earlier turns only what follows the reasoning is kept.
FORGETFUL = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip('\\n') }}"
)

# Template, and what it makes of the assistant's content.
WRITES = {
    "chatml": (CHATML, lambda content: content + "<|im_end|>"),
    "tagged": (TAGGED, lambda content: content + "<|im_end|>"),
    "tagged with break": (TAGGED_WITH_BREAK, lambda content: content + "<|im_end|>"),
    "llama 3": (LLAMA3, lambda content: content.strip() + "<|eot_id|>"),
    "llama 2": (LLAMA2, lambda content: " " + content.strip() + " </s>"),
}


def byte_level() -> Any:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    return tokenizer


TOKENIZER = byte_level()
# Without "<" there are no special tokens spelled out, which are a matter of their own.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=12).filter(str.strip)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def talk(*pairs: tuple[str, str], template: str = "", **more: Any) -> Conversation:
    messages: list[dict[str, Any]] = []
    for question, answer in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation("p", "c", "line 1", messages=tuple(messages), template=template, **more)


def segments(tokenizer: Any, conversation: Conversation) -> list[tuple[list[int], bool]]:
    (found,) = PromptCompletionEncoder(tokenizer).segments([conversation])
    return found


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def text_of(tokenizer: Any, conversation: Conversation, **options: Any) -> str:
    return tokenizer.apply_chat_template(
        list(conversation.messages), chat_template=conversation.template, tokenize=False, **options
    )


@pytest.mark.parametrize("kind", WRITES)
@settings(max_examples=examples(60), deadline=None)
@given(turns=TURNS)
def test_the_loss_has_each_answer_with_its_end_and_nothing_else(kind: str, turns: list[tuple[str, str]]) -> None:
    template, written = WRITES[kind]
    found = segments(TOKENIZER, talk(*turns, template=template))
    assert [decoded(TOKENIZER, ids) for ids, learnt in found if learnt] == [written(answer) for _, answer in turns]
    assert [learnt for _, learnt in found] == [False, True] * len(turns)


@pytest.mark.parametrize("kind", WRITES)
@settings(max_examples=examples(60), deadline=None)
@given(turns=TURNS)
def test_all_segments_together_are_the_templates_text(kind: str, turns: list[tuple[str, str]]) -> None:
    conversation = talk(*turns, template=WRITES[kind][0])
    whole = text_of(TOKENIZER, conversation)
    text = decoded(TOKENIZER, [token for ids, _ in segments(TOKENIZER, conversation) for token in ids])
    assert whole.startswith(text)
    assert whole[len(text) :] in ("", "\n")  # nothing is generated after the end marker


@pytest.mark.parametrize("kind", WRITES)
@settings(max_examples=examples(40), deadline=None)
@given(turns=TURNS)
def test_the_history_has_the_ids_that_inference_gives_it(kind: str, turns: list[tuple[str, str]]) -> None:
    conversation = talk(*turns, template=WRITES[kind][0])
    first = TOKENIZER.apply_chat_template(
        list(conversation.messages[:1]),
        chat_template=conversation.template,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert segments(TOKENIZER, conversation)[0] == (first, False)


def test_prefixes_agree_with_the_templates_own_tags() -> None:
    turns = [("one two", "three"), ("four", "five six")]
    encoded = TOKENIZER.apply_chat_template(
        list(talk(*turns).messages), chat_template=TAGGED, return_dict=True, return_assistant_tokens_mask=True
    )
    expected = list(zip(encoded["input_ids"], encoded["assistant_masks"], strict=True))[:-1]  # the last line break
    for template in (CHATML, TAGGED, TAGGED_WITH_BREAK):
        found = segments(TOKENIZER, talk(*turns, template=template))
        assert [(token, int(learnt)) for ids, learnt in found for token in ids] == expected


@pytest.mark.parametrize(
    ("name", "head", "end"),
    [
        ("llama3", "", "<|eot_id|>"),
        ("qwen3_instruct_2507", "", "<|im_end|>"),
        ("qwen3", "<think>\n\n</think>\n\n", "<|im_end|>"),
    ],
)
def test_the_templates_that_trl_trains_with(name: str, head: str, end: str) -> None:
    template: str = getattr(chat_template_utils, f"{name}_training_chat_template")
    found = segments(TOKENIZER, talk(("one", "two"), ("three", "four"), template=template))
    assert [decoded(TOKENIZER, ids) for ids, learnt in found if learnt] == [head + "two" + end, head + "four" + end]


def test_turns_after_the_last_answer_are_left_out() -> None:
    answered = talk(("one", "two"), template=CHATML)
    more = ({"role": "user", "content": "three"}, {"role": "tool", "content": "four"})
    longer = Conversation("p", "c", "s", messages=(*answered.messages, *more), template=CHATML)
    assert segments(TOKENIZER, longer) == segments(TOKENIZER, answered)


@pytest.mark.parametrize("make", [byte_level, sentencepiece_like_tokenizer])
def test_bos_is_there_as_often_as_the_template_writes_it(make: Any) -> None:
    tokenizer = make()
    for template in (LLAMA2, LLAMA3, CHATML):
        conversation = talk(("one", "two"), ("three", "four"), template=template)
        ids = [token for part, _ in segments(tokenizer, conversation) for token in part]
        assert ids.count(tokenizer.bos_token_id) == text_of(tokenizer, conversation).count("<s>")
        assert ids.count(tokenizer.bos_token_id) == {LLAMA2: 2, LLAMA3: 1, CHATML: 0}[template]


def test_no_space_comes_between_the_segments() -> None:
    tokenizer = sentencepiece_like_tokenizer()
    found = segments(tokenizer, talk(("one", "two three"), ("four", "five"), template=PLAIN))
    assert decoded(tokenizer, [token for ids, _ in found for token in ids]) == (
        "user: one\nassistant: two three\nuser: four\nassistant: five\n</s>"
    )


def test_an_end_that_is_white_space_alone_is_learnt_and_the_last_one_is_followed_by_eos() -> None:
    found = segments(TOKENIZER, talk(("one", "two"), ("three", "four"), template=PLAIN))
    assert [decoded(TOKENIZER, ids) for ids, learnt in found if learnt] == ["two\n", "four\n</s>"]


@pytest.mark.parametrize("kind", WRITES)
def test_an_end_marker_is_not_followed_by_eos(kind: str) -> None:
    template, written = WRITES[kind]
    ids, learnt = segments(TOKENIZER, talk(("one", "two"), template=template))[-1]
    assert learnt
    assert decoded(TOKENIZER, ids) == written("two")


def test_the_tokenizers_own_template_is_used_if_none_is_given() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = LLAMA3
    turns = [("one", "two"), ("three", "four")]
    assert segments(tokenizer, talk(*turns)) == segments(tokenizer, talk(*turns, template=LLAMA3))
    assert segments(tokenizer, talk(*turns, template=CHATML)) != segments(tokenizer, talk(*turns))


def test_system_tools_and_calls_go_to_the_template() -> None:
    template = "{% for tool in tools %}[{{ tool.name }}]{% endfor %}" + CHATML.replace(
        "{{ m.content }}", "{{ m.content }}{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}"
    )
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the time?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "clock"}]},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "Noon."},
    )
    conversation = Conversation("p", "c", "s", messages=messages, tools=({"name": "clock"},), template=template)
    found = [(decoded(TOKENIZER, ids), learnt) for ids, learnt in segments(TOKENIZER, conversation)]
    assert found == [
        ("[clock]<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nthe time?<|im_end|>\n"
         "<|im_start|>assistant\n", False),
        ('{"name": "clock"}<|im_end|>', True),
        ("\n<|im_start|>tool\nnoon<|im_end|>\n<|im_start|>assistant\n", False),
        ("Noon.<|im_end|>", True),
    ]  # fmt: skip


def test_examples_and_conversations_in_one_batch_are_as_alone() -> None:
    encoder = PromptCompletionEncoder(TOKENIZER)
    rows: list[Example] = [
        Example("one:", " two", "s"),
        talk(("a", "b"), ("c", "d"), template=CHATML),
        Example("three:", " four", "s"),
        talk(("e", "f"), template=LLAMA3),
    ]
    assert encoder.segments(rows) == [encoder.segments([row])[0] for row in rows]


# What goes wrong --------------------------------------------------------------------------------------------------


def test_a_template_that_rewrites_the_history_is_refused_with_the_remedy() -> None:
    thinking = [("one", "<think>\nhm\n</think>\n\ntwo"), ("three", "<think>\nso\n</think>\n\nfour")]
    assert chat_pieces(TOKENIZER, talk(thinking[0], template=FORGETFUL))  # nothing follows, so nothing is rewritten
    with pytest.raises(ChatTemplateError, match=r"turn 2 .*once others follow.*\{% generation %\}.*every turn alike"):
        chat_pieces(TOKENIZER, talk(*thinking, template=FORGETFUL))


def test_a_generation_prompt_that_no_turn_begins_with_is_refused() -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(ChatTemplateError, match=r"with the generation prompt as .*think.*every turn alike"):
        chat_pieces(TOKENIZER, talk(("one", "two"), template=template))


def test_a_tokenizer_without_a_template_and_a_broken_one_are_refused() -> None:
    with pytest.raises(ChatTemplateError, match="no chat template; give one"):
        chat_pieces(TOKENIZER, talk(("one", "two")))
    with pytest.raises(ChatTemplateError, match=r"not Jinja: .*line 2"):
        chat_pieces(TOKENIZER, talk(("one", "two"), template="{{ bos_token }}\n{% for %}"))


@pytest.mark.parametrize("template", [LLAMA2, "{{ messages[0].content + messages[0].name }}"])
def test_what_the_template_refuses_is_the_rows_fault(template: str) -> None:
    system = {"role": "system", "content": "be brief"}
    conversation = talk(("one", "two"), template=template)
    with pytest.raises(UnusableRowError, match="refuses the conversation"):
        chat_pieces(
            TOKENIZER, Conversation("p", "c", "s", messages=(system, *conversation.messages), template=template)
        )


def test_tags_inside_a_macro_which_jinja_misplaces_are_refused() -> None:
    template = (
        "{% macro turn(m) %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"
    )
    with pytest.raises(ChatTemplateError, match=r"mark .*the assistant says 'two'.*not into a macro"):
        chat_pieces(TOKENIZER, talk(("one", "two"), template=template))


def test_tags_are_the_remedy_for_a_template_that_rewrites_the_history() -> None:
    tagged = TAGGED.replace(
        "{{ m.content + '<|im_end|>' }}",
        "{{ (m.content if loop.last else m.content.split('</think>')[-1].lstrip('\\n')) + '<|im_end|>' }}",
    )
    assert tagged != TAGGED
    found = chat_pieces(
        TOKENIZER, talk(("one", "<think>hm</think>\ntwo"), ("three", "<think>so</think>\nfour"), template=tagged)
    )
    assert [text for text, learnt in found if learnt] == ["two<|im_end|>", "<think>so</think>\nfour<|im_end|>"]


class Rows:
    """A task of given rows."""

    name = "t"

    def __init__(self, *rows: Example) -> None:
        self._rows = rows

    def train_rows(self) -> Any:
        return iter(self._rows)


def test_the_error_names_task_field_and_row() -> None:
    rows: Any = Rows(talk(("one", "two")))
    with pytest.raises(InputError, match=r"tasks\.t\.chat_template: line 1: the tokenizer has no chat template"):
        encode_task(rows, PromptCompletionEncoder(TOKENIZER), 100)


def test_rows_that_the_template_refuses_are_skipped_and_counted_as_bad_rows_are() -> None:
    good = talk(("one", "two"), template=LLAMA2)
    system = {"role": "system", "content": "be brief"}
    bad = Conversation("p", "c", "line 2", messages=(system, *good.messages), template=LLAMA2)
    rows: Any = Rows(good, bad)
    with pytest.raises(InputError, match=r"tasks\.t: line 2: .*only user and assistant take turns.*on_bad_row"):
        encode_task(rows, PromptCompletionEncoder(TOKENIZER), 100)
    counts = encode_task(rows, PromptCompletionEncoder(TOKENIZER), 100, on_bad_row="skip").counts
    assert (counts.rows, counts.kept, counts.skipped) == (2, 1, 1)


def test_truncation_cuts_between_turns_like_anywhere_else() -> None:
    rows: Any = Rows(talk(("one", "two"), ("three", "four"), template=CHATML))
    full = encode_task(rows, PromptCompletionEncoder(TOKENIZER), 100)
    for length in range(1, len(full.input_ids)):
        if not full.loss_mask[:length].any():
            with pytest.raises(InputError, match="no row of 1 is left"):
                encode_task(rows, PromptCompletionEncoder(TOKENIZER), length, on_long_example="truncate")
            continue
        cut = encode_task(rows, PromptCompletionEncoder(TOKENIZER), length, on_long_example="truncate")
        assert cut.input_ids.tolist() == full.input_ids[:length].tolist()
        assert cut.loss_mask.tolist() == full.loss_mask[:length].tolist()


# A real tokenizer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, PLAIN])
def test_a_real_tokenizer_without_such_markers_learns_them_as_text(data_dir: Path, template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "models" / "stories260K")
    conversation = talk(("Who is Tom?", "Tom is a cat."), ("And Mia?", "A dog, 3 years old."), template=template)
    found = segments(tokenizer, conversation)
    end = {CHATML: "<|im_end|>", PLAIN: "\n"}[template]
    answers = [decoded(tokenizer, ids) for ids, learnt in found if learnt]
    assert answers == [f"Tom is a cat.{end}", f"A dog, 3 years old.{end}</s>"]
    ids = [token for part, _ in found for token in part]
    assert decoded(tokenizer, ids).removesuffix("</s>").rstrip() == text_of(tokenizer, conversation).rstrip()
