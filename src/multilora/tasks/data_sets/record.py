"""ReCoRD: which entity of a news article fills the gap in a statement about it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import SuperGlueTask, super_glue
from multilora.tasks.example import Example, Scoring, Split
from multilora.tasks.folder import DATA_SET, FolderSection, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row, UnusableRowError
from multilora.tasks.rows_task import Drafted

_GAP = "@placeholder"


@dataclass(frozen=True)
class ReCoRD(SuperGlueTask):
    """`passage` with `text` and `entities` (`start`, `end` inclusive), `qas` with `query` and `answers`.

    One example per query; a choice is the query with one entity in its gap. Several entities may be right: the first
    of them, by the alphabet, is the completion. The article's highlights become a list, which the completion
    continues, one space further in: so does lm-evaluation-harness, whose scores others publish.
    """

    on_hub: ClassVar[OnHub] = super_glue("record", "passage query entities answers idx")

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("f1", "exact_match"))

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub has one row for each query, with the texts of the entities and answers, in any order."""
        numbers = row.inner("idx")
        query = {
            "query": row.text("query"),
            "idx": numbers.whole("query"),
            "answers": [{"text": text} for text in row.texts("answers")],
        }
        entities = [{"text": text} for text in row.texts("entities")]
        return {
            "idx": numbers.whole("passage"),
            "passage": {"text": row.text("passage"), "entities": entities},
            "qas": [query],
        }

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        passage = row.inner("passage")
        text = passage.text("text")
        entities = sorted({_name(text, entity) for entity in passage.inners("entities")})
        first, *highlights = text.strip().split("\n@highlight\n")
        prompt = f"{first}\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights)
        drafts: list[Drafted] = []
        for query in row.inners("qas"):
            gapped = query.text("query")
            if _GAP not in gapped:
                raise UnusableRowError(f"a query has no {_GAP}: {gapped[:60]!r}")
            right = sorted({answer.text("text") for answer in query.inners("answers")})
            if absent := [answer for answer in right if answer not in entities]:
                raise UnusableRowError(f"the answer {absent[0]!r} is not one of the passage's entities")
            id = f"{row_id(row, source, part)}-{query.whole('idx')}"
            choices, answers = (tuple(_filled(gapped, name) for name in names) for names in (entities, right))
            example = Example(prompt, answers[0], source, id, choices, answers, short=tuple(entities))
            drafts.append(Drafted(example, text))
        return drafts


class ReCoRDSection(FolderSection):
    """ReCoRD: which entity fills the gap in a statement about an article?"""

    task: Literal["record"] = Field(description=DATA_SET)
    data_set = ReCoRD


def _name(text: str, entity: Row) -> str:
    if "text" in entity.data:
        return entity.text("text")
    start, end = entity.whole("start"), entity.whole("end")
    if not 0 <= start <= end < len(text):
        raise UnusableRowError(f"the entity from {start} to {end} lies outside the passage of {len(text)} characters")
    return text[start : end + 1]


def _filled(query: str, entity: str) -> str:
    return f"   - {query.replace(_GAP, entity)}"
