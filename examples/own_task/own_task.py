"""Moods, a made-up data set: is a sentence cheerful or gloomy?

Its files are `train.jsonl` and `test.jsonl`: {"text": "The sun is out.", "mood": "cheerful", "about": "weather"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from multilora.tasks.example import Example, Scoring, Split
from multilora.tasks.folder import FolderSection, FolderTask, row_id
from multilora.tasks.rows import Row
from multilora.tasks.rows_task import Drafted

MOODS = {"cheerful": " cheerful", "gloomy": " gloomy"}


@dataclass(frozen=True)
class Moods(FolderTask):
    """Sentences with their moods. Scores are also reported by what a sentence is about."""

    question: str = "Mood"

    scoring_kind = Scoring("choices", ("accuracy", "macro_f1"))

    def own_files(self, part: Split) -> Sequence[Path]:
        return [self.folder / f"{part}.jsonl"]

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        text, mood = row.text("text"), row.label("mood", MOODS)
        prompt = f"{text}\n{self.question}:"
        choices = tuple(MOODS.values())
        example = Example(
            prompt, mood, source, row_id(row, source, part), choices, answers=(mood,), group=row.text("about"), key=text
        )
        return [Drafted(example, split_key=text)]

    def groups(self, example: Example) -> Mapping[str, str]:
        return {"topic": example.group}


class MoodsSection(FolderSection):
    """Moods: is a sentence cheerful or gloomy?"""

    task: Literal["moods"] = Field(description="Sentences with their moods.")
    data_set = Moods
    question: str = Field("Mood", min_length=1, description="What each sentence is asked for.")

    def build(self, name: str) -> Moods:
        return Moods(
            name,
            self.folder or Path(),
            self.question,
            validation_share=self.validation_share,
            hub=self.source(name),
        )
