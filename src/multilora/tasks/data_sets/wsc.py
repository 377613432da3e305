"""WSC (Winograd schemas): does a pronoun refer to a noun phrase?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import LabelTask, super_glue
from multilora.tasks.folder import DATA_SET, FolderSection
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row, UnusableRowError


@dataclass(frozen=True)
class WSC(LabelTask):
    """`text`, `target` with the noun phrase (span 1) and the pronoun (span 2), `label` true or false.

    The pronoun is marked by stars in the text; its index counts words that single spaces part, and is off by one in
    some of the original rows. As in the hub's corrected version (`wsc.fixed`) the noun phrase is spelled as in the
    text, and as in lm-evaluation-harness the spaces before punctuation are taken out.
    """

    on_hub: ClassVar[OnHub] = super_glue("wsc.fixed", "text span1_index span1_text span2_index span2_text label")

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub stores the target's fields in separate columns."""
        spans = {name: value for name, value in row.data.items() if name.startswith("span")}
        return {**super().from_hub(row), "target": spans}

    def prompt(self, row: Row) -> tuple[str, str]:
        text, target = row.text("text"), row.inner("target")
        noun, pronoun, index = target.text("span1_text"), target.text("span2_text"), target.whole("span2_index")
        words = text.split(" ")
        for start in (index, index + 1, index - 1):
            rest = " ".join(words[start:]) if start >= 0 else ""
            if rest.startswith(pronoun):
                break
        else:
            raise UnusableRowError(f"target: word {index} of the text is not span2_text {pronoun!r}")
        before = " ".join([*words[:start], ""])
        passage = _detokenised(f"{before}*{pronoun}*{rest[len(pronoun) :]}")
        noun = _spelled_as_in(text, noun, target.whole("span1_index"))
        question = f'In the passage above, does the pronoun "*{pronoun}*" refer to "*{noun}*"?'
        return f"Passage: {passage}\nQuestion: {question}\nAnswer:", text


class WSCSection(FolderSection):
    """WSC: does a pronoun refer to a noun phrase?"""

    task: Literal["wsc"] = Field(description=DATA_SET)
    data_set = WSC


def _spelled_as_in(text: str, noun: str, index: int) -> str:
    """The noun phrase with the case of the text's word `index`, without full stop and line breaks, if it needs that."""
    words = text.split()
    if noun in text or not 0 <= index < len(words):
        return noun
    first = noun[0].lower() if words[index][0].islower() else noun[0].upper()
    return f"{first}{noun[1:]}".rstrip(".").replace("\n", " ")


def _detokenised(text: str) -> str:
    """Remove the spaces that the original puts before punctuation; the harness's `general_detokenize`."""
    for spaced, plain in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(spaced, plain)
    return re.sub(r" (['.,])", r"\1", text)
