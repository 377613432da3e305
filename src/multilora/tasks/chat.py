"""A task from conversations: JSON lines with `messages`, rendered by the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from pydantic import Field, ValidationInfo, field_validator

from multilora.errors import InputError
from multilora.fields import expand
from multilora.tasks.example import Conversation, Example, Scoring, Split
from multilora.tasks.lines import LinesSection, LinesTask
from multilora.tasks.rows import Row, UnusableRowError, json_type, near_file

_INSTRUCTING = ("system", "developer")
_ROLES = (*_INSTRUCTING, "user", "assistant", "tool")
# ShareGPT's: `conversations` with `from` and `value`.
_SPEAKERS: Mapping[Any, str] = MappingProxyType(
    {"human": "user", "gpt": "assistant", "observation": "tool", **{role: role for role in _ROLES}}
)


@dataclass(frozen=True)
class ChatTask(LinesTask):
    """Rows with `messages`, each with `role` and `content`, or with ShareGPT's `conversations`. No score.

    A row's `tools`, and what else a message has, such as `tool_calls`, goes to the chat template as it is.

    Attributes:
        chat_template: a Jinja file or the template's text; empty: the tokenizer's own.
    """

    chat_template: str = field(default="", kw_only=True)

    @property
    def scoring(self) -> Scoring:
        """None."""
        return Scoring("none")

    def fields(self) -> set[str]:
        return set() if self.id_field is None else {self.id_field}

    def split_key(self, example: Example) -> str:
        """What is said first but for the system's part: conversations that begin alike stay together."""
        assert isinstance(example, Conversation)
        return next(str(turn["content"]) for turn in example.messages if turn["role"] not in _INSTRUCTING)

    def check(self, split: Split = "train") -> None:
        """As `LinesTask.check`; and the chat template's file can be read."""
        super().check(split)
        _ = self._template

    def example(self, row: Mapping[str, Any], source: str, id: str) -> Example:
        messages = tuple(_messages(Row(row)))
        spoken = [turn for turn in messages if turn["role"] not in _INSTRUCTING]
        if spoken and spoken[0]["role"] == "assistant":
            raise UnusableRowError("the assistant has the first turn, so no prompt is before it")
        turns = [number for number, turn in enumerate(messages) if turn["role"] == "assistant"]
        if not turns:
            raise UnusableRowError("no turn of the assistant, so there is nothing to learn from")
        history, last = messages[: turns[-1]], messages[turns[-1]]
        prompt = "\n".join(turn["content"] for turn in history)
        key = "\n".join(turn["content"] for turn in history if turn["role"] not in _INSTRUCTING)
        completion = last["content"] or json.dumps(last["tool_calls"], ensure_ascii=False)
        return Conversation(
            prompt,
            completion,
            source,
            id,
            key=key,
            messages=messages,
            tools=tuple(tool.data for tool in Row(row).inners("tools")) if row.get("tools") else (),
            template=self._template,
        )

    @cached_property
    def _template(self) -> str:
        if "{{" in self.chat_template or "{%" in self.chat_template or not self.chat_template:
            return self.chat_template
        file = Path(self.chat_template)
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"tasks.{self.name}.chat_template: cannot read {str(file)!r}: {error.strerror}{near_file(file)}; name "
                "a Jinja file, or give the template's text"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"tasks.{self.name}.chat_template: {str(file)!r} is not UTF-8 text") from error
        if not text.strip():
            raise InputError(f"tasks.{self.name}.chat_template: {str(file)!r} is empty; write the template into it")
        return text


def _messages(row: Row) -> Sequence[Mapping[str, Any]]:
    if "messages" not in row.data and "conversations" in row.data:
        return [
            {"role": turn.label("from", _SPEAKERS), "content": _content(turn, "value")}
            for turn in row.inners("conversations")
        ]
    known = {role: role for role in _ROLES}
    messages: list[Mapping[str, Any]] = []
    for turn in row.inners("messages"):
        # Arrow gives every message the fields of all, empty where they are not there.
        rest = {name: value for name, value in turn.data.items() if value is not None}
        content = _content(turn, "content")
        messages.append({**rest, "role": turn.label("role", known), "content": content})
    return messages


def _content(turn: Row, name: str) -> str:
    value: Any = turn.data.get(name)
    if turn.data.get("tool_calls") and (value is None or value == ""):
        return ""  # what the assistant says is the call
    if isinstance(value, list):
        parts = cast(list[Any], value)
        raise UnusableRowError(f"a turn's content is a list of {json_type(parts[0]) if parts else 'nothing'}, not text")
    return turn.text(name)


class ChatSection(LinesSection):
    """A task from conversations."""

    task: Literal["chat"] = Field(
        description="Rows with messages, each with role and content; the loss has what the assistant says."
    )
    chat_template: str = Field(
        "",
        description="Chat template: a Jinja file, or the template's text. Left out: the tokenizer's own.",
    )

    def build(self, name: str) -> ChatTask:
        """The task. The chat template's file is read with the first row, or by `check`."""
        return ChatTask(chat_template=self.chat_template, **self.options(name))

    @field_validator("chat_template")
    @classmethod
    def _a_file_or_text(cls, value: str, info: ValidationInfo) -> str:
        return value if "{{" in value or "{%" in value else expand(value, info)
