"""WSC (Winograd schemas): does a pronoun refer to a noun phrase?"""

from __future__ import annotations

from dataclasses import dataclass

from multilora.data.tasks.rows import Row, UnusableRowError
from multilora.data.tasks.superglue import LabelTask


@dataclass(frozen=True)
class WSC(LabelTask):
    """`text`, `target` with the noun phrase (span 1) and the pronoun (span 2), `label` true or false.

    The pronoun is marked by stars in the text; its index counts words that single spaces part, and is off by one in
    some of the original rows.
    """

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
        passage = f"{before}*{pronoun}*{rest[len(pronoun) :]}"
        question = f'In the passage above, does the pronoun "*{pronoun}*" refer to "*{noun}*"?'
        return f"Passage: {passage}\nQuestion: {question}\nAnswer:", text
