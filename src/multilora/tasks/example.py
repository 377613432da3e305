"""What a task yields: one `Example` per row, or a `BadRow` that says where and why; and what a task is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from multilora.errors import InputError

# train and validation share the training files; test is the file that results are reported on.
Split = Literal["train", "validation", "test"]
EvalSplit = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task: the model's input and its target.

    Attributes:
        prompt: the model's input.
        completion: the target; never blank. Where there are choices, it is one of them.
        source: where the row stands, such as `train.jsonl line 3`, for messages.
        id: names the row within its task and files, the same at every reading; empty: the task has no ids.
        choices: what a model may answer, each in place of the completion; empty: free text.
        answers: what counts as right: the right choices, or the final number; empty: free text without scoring.
        group: what scores are computed by, or also reported by (`Task.groups`): MultiRC's question, MMLU's subject.
        key: the question itself, without what is put around it, where the prompt has more: by it equal questions are
            found (`multilora.tasks.keys`); empty: prompt and choices.
        short: what each choice says in short, where scores compare its words: ReCoRD's entities; empty: the choices.
    """

    prompt: str
    completion: str
    source: str
    id: str = ""
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    group: str = ""
    key: str = ""
    short: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation(Example):
    """A conversation. The loss has all that the assistant says (`multilora.data.chat`).

    As an example, its prompt is what was said before the assistant's last turn, without roles, and its completion that
    turn's content. Its key leaves out the system's part.

    Attributes:
        messages: the turns: each has `role` and `content`, and what else the chat template knows, such as `tool_calls`.
        tools: descriptions of the tools that the assistant may call, for the chat template.
        template: the chat template, Jinja; empty: the tokenizer's own.
        pieces: the conversation as text, and of each piece whether the loss has it; empty: not rendered yet.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    template: str = ""
    pieces: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that makes no example. Whether the run stops or skips the row is the reader's choice (`on_bad_row`)."""

    source: str
    why: str


class NoSplitError(InputError):
    """The task has no such split, and no file of it is missing."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How answers to a task are scored.

    Attributes:
        kind: `choices`: the choice of highest likelihood is the answer; `final_number`: the last number of a generated
            answer must equal the row's; `exact_text`: the whole generated answer, without blanks around it, must;
            `none`: free text, no score.
        metrics: the scores of the task, its official ones, the main one first.
    """

    kind: Literal["none", "choices", "final_number", "exact_text"]
    metrics: tuple[str, ...] = ()


class Task(Protocol):
    """A data set with its prompts and its scoring. Training and evaluation read it through this alone."""

    @property
    def name(self) -> str: ...

    @property
    def scoring(self) -> Scoring: ...

    def check(self, split: Split = "train") -> None:
        """Find what is wrong with the split before any row is read, such as a missing file.

        Raises:
            InputError: one message with every fault.
        """
        ...

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The training rows in the order of the files, one at a time, the same ones at every call.

        Never a row of an evaluation file, nor of the validation split.

        Raises:
            InputError: what no row can be blamed for, such as a field of the template that no row has.
        """
        ...

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """The rows to evaluate on, in the order of the files.

        Args:
            split: `validation`: the rows held out of the training files; `test`: those of the evaluation files.

        Raises:
            NoSplitError: the task has no such split.
        """
        ...

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """Rows that are shown with their answers in the prompts of others, such as MMLU's dev rows; most tasks: none.

        Raises:
            InputError: they cannot be read.
        """
        ...

    def files(self, split: Split) -> Sequence[Path]:
        """The files that the split's rows are read from, for fingerprints; empty if they come from elsewhere.

        Raises:
            NoSplitError: the task has no such split.
            InputError: the Hub has the files, and they cannot be loaded.
        """
        ...

    def groups(self, example: Example) -> Mapping[str, str]:
        """What the example's score is also reported by: names by kind, such as {"category": "STEM"}; most tasks: {}."""
        ...


@dataclass(frozen=True)
class TaskWrapper:
    """A task around another one, to which everything is forwarded. Subclasses override what they change.

    Attributes:
        task: the wrapped task.
    """

    task: Task

    @property
    def name(self) -> str:
        """The wrapped task's name."""
        return self.task.name

    @property
    def scoring(self) -> Scoring:
        """How the wrapped task is scored."""
        return self.task.scoring

    def check(self, split: Split = "train") -> None:
        """See `Task.check`."""
        self.task.check(split)

    def train_rows(self) -> Iterator[Example | BadRow]:
        """See `Task.train_rows`."""
        return self.task.train_rows()

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """See `Task.eval_rows`."""
        return self.task.eval_rows(split)

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """See `Task.shown_rows`."""
        return self.task.shown_rows()

    def files(self, split: Split) -> Sequence[Path]:
        """See `Task.files`."""
        return self.task.files(split)

    def groups(self, example: Example) -> Mapping[str, str]:
        """See `Task.groups`."""
        return self.task.groups(example)
