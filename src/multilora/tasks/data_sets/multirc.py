"""MultiRC: is an answer to a question about a passage correct? A question may have several correct answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import SuperGlueTask, super_glue
from multilora.tasks.example import Example, Scoring, Split
from multilora.tasks.folder import DATA_SET, FolderSection, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row
from multilora.tasks.rows_task import Drafted


@dataclass(frozen=True)
class MultiRC(SuperGlueTask):
    """`passage` with `text` and `questions`, each with `answers` whose `label` is 0 or 1.

    One example per passage, question and answer (a few answers are empty, as upstream); the group is the question,
    which exact match is counted by.
    """

    on_hub: ClassVar[OnHub] = super_glue("multirc", "paragraph question answer idx label")
    hub_labels: ClassVar[Mapping[str, Any]] = {"False": 0, "True": 1}

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("f1_over_answers", "exact_match_of_questions"))

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub has one row for each answer, with three numbers in `idx`."""
        numbers = row.inner("idx")
        answer = {"text": row.maybe_empty("answer"), "idx": numbers.whole("answer"), **self.own_label(row)}
        question = {"question": row.text("question"), "idx": numbers.whole("question"), "answers": [answer]}
        return {
            "idx": numbers.whole("paragraph"),
            "passage": {"text": row.text("paragraph"), "questions": [question]},
        }

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        passage = row.inner("passage")
        text = passage.text("text")
        drafts: list[Drafted] = []
        for question in passage.inners("questions"):
            group = f"{row_id(row, source, part)}-{question.whole('idx')}"
            for answer in question.inners("answers"):
                prompt = (
                    f"{text}\nQuestion: {question.text('question')}\nAnswer: {answer.maybe_empty('text')}\n"
                    "Is the answer correct?"
                )
                completion = answer.label("label", {0: " no", 1: " yes"})
                id = f"{group}-{answer.whole('idx')}"
                example = Example(prompt, completion, source, id, (" no", " yes"), (completion,), group)
                drafts.append(Drafted(example, text))
        return drafts


class MultiRCSection(FolderSection):
    """MultiRC: is an answer to a question about a passage correct?"""

    task: Literal["multirc"] = Field(description=DATA_SET)
    data_set = MultiRC
