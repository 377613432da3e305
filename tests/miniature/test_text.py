"""The text that the base reads: the same for a seed, complete on the world, and free of the tasks."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from itertools import islice

import pytest
from tools.miniature.facts_text import STATEMENTS
from tools.miniature.text import PRIMER, documents, held_out

from multilora.miniature.folder import GENERAL_TEXT
from multilora.miniature.knowledge import QUESTIONS
from multilora.miniature.tasks import generate_tasks
from multilora.miniature.world import VALUES, world
from multilora.tasks.keys import normalised

COUNT = 30_000


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The text after the primer."""
    return list(islice(documents(0), PRIMER, PRIMER + COUNT))


def test_the_same_seed_gives_the_same_text_on_every_machine() -> None:
    text = "\x00".join(islice(documents(0), PRIMER - 100, PRIMER + 500))
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_TEXT, "the text changed: train the base anew"


FIRST_TEXT = "889713fdb6787d8fe9a2c4e2085c0b70cda0bfde5b972efb6c0786ca780b501a"


def test_the_packaged_general_text_is_the_one_of_a_seed_that_the_base_has_not_read() -> None:
    packaged = files("multilora") / "assets" / GENERAL_TEXT
    assert packaged.read_bytes() == held_out().encode()


def test_another_seed_gives_another_text() -> None:
    assert list(islice(documents(0), 50)) != list(islice(documents(1), 50))


def test_no_prompt_of_a_task_is_in_the_text(texts: list[str]) -> None:
    text = normalised("\n".join(texts[:8000]))
    for splits in generate_tasks(0).values():
        for row in (row for rows in splits.values() for row in rows):
            assert normalised(row["prompt"]) not in text


def test_no_line_of_a_task_is_in_the_text(texts: list[str]) -> None:
    text = "\n".join(texts)
    for marker in ("Answer:", "Instruction:", "Words:", "Claim:", "Problem:", "Question:", "True, False"):
        assert marker not in text
    assert not re.search(r"= \d+\.\s#### \d", text)


def test_no_question_on_the_world_is_in_the_text(texts: list[str]) -> None:
    text = "\n".join(texts).casefold()
    names = "|".join(entity.name.casefold() for entity in (*world().people, *world().towns))
    for wording in (wording for splits in QUESTIONS.values() for asked in splits.values() for wording in asked):
        assert not re.search(re.escape(wording.casefold()).replace(r"\{e\}", f"({names})"), text)


def test_every_fact_is_in_the_text_in_many_styles(texts: list[str]) -> None:
    text = "\n".join(texts)
    for entity in (*world().people, *world().towns):
        for attribute, value in entity.facts.items():
            stated = [style.format(e=entity.name, v=value)[1:] for style in STATEMENTS[attribute]]
            assert sum(statement in text for statement in stated) >= 5, (entity.name, attribute)


def test_nothing_untrue_is_said_of_the_world(texts: list[str]) -> None:
    text = "\n".join(texts)
    for attribute in ("job", "pet", "goods", "river"):
        for style in STATEMENTS[attribute]:
            pattern = re.escape(style[1:]).replace(r"\{e\}", r"(?P<e>\w+)").replace(r"\{v\}", r"(?P<v>\w+)")
            facts = {e.name: e.facts for e in (*world().people, *world().towns) if attribute in e.facts}
            for match in re.finditer(pattern, text):
                if match["e"] in facts and match["v"] in VALUES[attribute]:
                    assert facts[match["e"]][attribute] == match["v"], match[0]


def test_equations_of_the_text_are_right(texts: list[str]) -> None:
    found = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\b", "\n".join(texts))
    assert len(found) > 1000
    for a, sign, b, result in found:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)
