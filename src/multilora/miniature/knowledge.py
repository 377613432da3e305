"""The two knowledge tasks: multiple choice on people and on towns of the fictional world.

The questions of the test are about other entities than those of training, and in other words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multilora.miniature.draws import Draws
from multilora.miniature.rows import Row, divided
from multilora.miniature.world import VALUES, Entity, world
from multilora.tasks.example import Split

# Attribute → the questions of each split.
QUESTIONS: Mapping[str, Mapping[Split, Sequence[str]]] = {
    "job": {
        "train": (
            "What is the work of {e}?",
            "Which job does {e} have?",
            "What does {e} do for a living?",
            "As what does {e} work?",
        ),
        "validation": ("Which work does {e} do?", "What is {e} by trade?"),
        "test": ("What job does {e} do?", "Which trade is the work of {e}?"),
    },
    "pet": {
        "train": (
            "Which animal does {e} keep?",
            "What is the pet of {e}?",
            "What kind of animal lives with {e}?",
            "Which pet does {e} own?",
        ),
        "validation": ("What pet does {e} keep?", "Which animal is at home with {e}?"),
        "test": ("Which animal does {e} own?", "What kind of pet lives with {e}?"),
    },
    "goods": {
        "train": (
            "What is made in {e}?",
            "What does the town of {e} sell?",
            "For which goods is {e} known?",
            "Which goods come from {e}?",
        ),
        "validation": ("What comes from {e}?", "Which goods are made in {e}?"),
        "test": ("Which goods does {e} sell?", "For what is the town of {e} known?"),
    },
    "river": {
        "train": (
            "Which river flows through {e}?",
            "On which river does {e} lie?",
            "What is the river of {e}?",
            "By which river was {e} built?",
        ),
        "validation": ("What river flows by {e}?", "Which river is in {e}?"),
        "test": ("Which river does {e} lie on?", "What is the name of the river in {e}?"),
    },
}


def people_row(draws: Draws, split: Split, seed: int) -> Row:
    """Somebody's work, or animal."""
    return _row(draws, split, entities_of(seed, "people")[split])


def towns_row(draws: Draws, split: Split, seed: int) -> Row:
    """A town's goods, or river."""
    return _row(draws, split, entities_of(seed, "towns")[split])


def entities_of(seed: int, kind: str) -> dict[Split, list[Entity]]:
    """The people or the towns of each split: 15 of 100 for validation, 25 for the test."""
    entities = world().people if kind == "people" else world().towns
    count = len(entities)
    return divided(seed, kind, entities, validation=count * 15 // 100, test=count * 25 // 100)


def _row(draws: Draws, split: Split, entities: Sequence[Entity]) -> Row:
    entity = draws.pick(entities)
    attribute = draws.pick(tuple(entity.facts))
    right = entity.facts[attribute]
    options = draws.shuffled([right, *draws.sample([value for value in VALUES[attribute] if value != right], 3)])
    question = draws.pick(QUESTIONS[attribute][split]).format(e=entity.name)
    listed = f"{', '.join(options[:-1])} or {options[-1]}"
    choices = tuple(f" {option}" for option in options)
    return Row(f"Question: {question} Is it {listed}?\nAnswer:", f" {right}", right, choices)
