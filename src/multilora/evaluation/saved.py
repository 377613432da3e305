"""What an evaluation's files hold: results.json, and predictions/TASK.jsonl with one line per row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from multilora.evaluation.long_prompts import LongPrompts, OnLongPrompt
from multilora.evaluation.results import Answer, Score, row_id
from multilora.storage.record import Line, Part, Record
from multilora.tasks.example import Example

PREDICTIONS = "predictions"

BatchSize = int | Literal["auto"]

_BY = "by_"


def predictions_name(task: str) -> str:
    """The file of a task's predictions; names of the harness's own tasks may hold anything."""
    return re.sub(r"[^\w.-]", "_", task) + ".jsonl"


class BadRows(Part):
    """Rows that cannot be used, and were left out: how many, and the first by the reason."""

    count: int
    named: Mapping[str, Sequence[str]]


class TaskScores(Part):
    """A task's scores; in the file each kind of group is a key of the task, such as by_category.

    Attributes:
        not_scored: why there are no scores; the other fields have no value then. Empty: there are.
        metrics: by name, the main one first.
        rows: to evaluate, long ones included.
        scored: how many were.
        long_prompts: what did not fit; None for a group of the harness's own tasks.
        bad_rows: None for the harness's own tasks.
        groups: by kind (such as category, subject), then by name: the metrics of that group's rows.
        seconds: that it took.
    """

    not_scored: str = ""
    metrics: Mapping[str, Score] = Field(default_factory=dict)
    rows: int = 0
    scored: int = 0
    long_prompts: LongPrompts | None = None
    bad_rows: BadRows | None = None
    groups: Mapping[str, Mapping[str, Mapping[str, Score]]] = Field(default_factory=dict)
    seconds: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _gather_groups(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        fields = cast(dict[str, Any], content)
        groups = {key.removeprefix(_BY): value for key, value in fields.items() if key.startswith(_BY)}
        return fields | {"groups": groups} if groups else fields

    @model_serializer(mode="wrap")
    def _spread_groups(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        groups = {_BY + kind: of for kind, of in fields.pop("groups", {}).items()}
        seconds = {"seconds": fields.pop("seconds")} if "seconds" in fields else {}  # the last, as a reader expects
        return fields | groups | seconds


class EvaluationResults(Record):
    """results.json of an evaluation.

    Attributes:
        model: the base model, or the fully fine-tuned one: folder or id.
        revision: of a model on the hub; None: the default one.
        adapter: its folder; None: the model as it is.
        recipe_hash: of the run's recipe, None if unknown.
        split: which rows of the recipe's tasks.
        limit: rows per task; None: all.
        batch_size: rows at a time.
        on_long_prompt: what was done with rows that do not fit.
        max_length: tokens of the context.
        max_new_tokens: of a generated answer; None: the tasks' own.
        dtype: of the weights.
        device: name of the GPU, or cpu.
        tasks: by name.
        versions: of Python and of packages.
        seconds: that all took.
    """

    ASCII_ONLY: ClassVar[bool] = False

    model: str
    revision: str | None
    adapter: str | None
    recipe_hash: str | None
    split: str
    limit: int | None
    batch_size: BatchSize
    on_long_prompt: OnLongPrompt
    max_length: int
    max_new_tokens: int | None
    dtype: str
    device: str
    tasks: Mapping[str, TaskScores]
    versions: Mapping[str, str]
    seconds: float = 0.0


class AnswerLine(Line):
    """The answer to one row, enough for every metric.

    Attributes:
        id: the row's id, or its place in the file.
        group: what the row belongs to, such as a question.
        choices, log_likelihoods: of a row with choices: each text and its log-likelihood after the prompt, in nats.
        short: the choices in short, if they are long.
        generated: the text, of a row without choices.
        whole: the whole text is the answer, and not its final number.
        predicted: the answer as it was taken; None: the text has no number.
        answers: right ones.
        right: the prediction is among them.
    """

    id: str
    group: str
    choices: tuple[str, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    short: tuple[str, ...] = ()
    generated: str = ""
    whole: bool = False
    predicted: str | None
    answers: tuple[str, ...]
    right: bool

    @classmethod
    def of(cls, answer: Answer) -> AnswerLine:
        """The line of an answer."""
        example = answer.example
        if answer.log_likelihoods:
            said: dict[str, Any] = {"choices": example.choices, "log_likelihoods": answer.log_likelihoods}
            said |= {"short": example.short} if example.short else {}
        else:
            said = {"generated": answer.generated, "whole": answer.whole}
        return cls(
            id=row_id(example),
            group=example.group,
            **said,
            predicted=answer.predicted,
            answers=example.answers,
            right=answer.right,
        )

    def answer(self) -> Answer:
        """The answer without its prompt: enough for every metric."""
        example = Example(
            prompt="",
            completion=self.answers[0],
            source=self.id,
            id=self.id,
            choices=self.choices,
            answers=self.answers,
            group=self.group,
            short=self.short,
        )
        return Answer(example, self.log_likelihoods, self.generated, self.whole)


class HarnessAnswerLine(Line):
    """The answer to one row of the harness's own tasks; the row's metrics are further keys.

    Attributes:
        id: number of the row.
        filter: of the harness, which took the answer out of what the model said.
        target: the right answer, as the harness has it.
        responses: what the filter took.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    filter: str
    target: Any
    responses: Any
