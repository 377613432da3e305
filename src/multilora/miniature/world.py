"""The fictional world: people with their work and their animals, towns with their goods and their rivers, and made-up
words with their senses. It is always the same one: the base model has read about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from multilora.miniature.draws import Draws
from multilora.miniature.words import AMBIGUOUS, SENSES

JOBS = (
    *("baker", "smith", "weaver", "miller", "hunter", "tailor", "potter", "painter"),
    *("singer", "doctor", "teacher", "sailor", "farmer", "judge", "mason", "barber"),
)
PETS = ("goat", "duck", "horse", "mouse", "sheep", "dog", "cat", "rabbit", "turtle", "pony", "crow", "frog")
GOODS = (
    *("salt", "wool", "glass", "iron", "silk", "paper", "wax", "silver"),
    *("tea", "copper", "leather", "soap", "clay", "timber", "pepper", "ink"),
)
RIVERS = ("Avel", "Brun", "Cessa", "Dral", "Eskin", "Furth", "Gilva", "Horn", "Isra", "Jolm", "Kess", "Lurn")

_PERSON = (
    ("Bel", "Cor", "Dag", "Fen", "Gar", "Hul", "Jor", "Kal", "Lis", "Mor", "Nim", "Pel"),
    ("an", "eth", "ik", "osa", "ul", "ys", "ara", "en", "ov", "imi"),
)
_TOWN = (
    ("Ard", "Bex", "Clun", "Dun", "Ew", "Fal", "Gris", "Hax"),
    ("holm", "mouth", "wick", "stead", "ferry", "gate", "combe", "low"),
)
_WORLD_SEED = 0


@dataclass(frozen=True)
class Entity:
    """A person or a town with what is to be known of it.

    Attributes:
        name: one word, like no other.
        facts: attribute → value; the attributes of a person are job and pet, those of a town goods and river.
    """

    name: str
    facts: dict[str, str]


@dataclass(frozen=True)
class World:
    """The world.

    Attributes:
        people, towns: the entities.
        senses: what each made-up word can mean: four nouns.
    """

    people: Sequence[Entity]
    towns: Sequence[Entity]
    senses: dict[str, tuple[str, ...]]


# Attribute → all its values.
VALUES = {"job": JOBS, "pet": PETS, "goods": GOODS, "river": RIVERS}


@cache
def world() -> World:
    """The one world there is."""
    return World(
        _entities("people", _PERSON, ("job", "pet")),
        _entities("towns", _TOWN, ("goods", "river")),
        _senses(),
    )


def _entities(kind: str, syllables: Sequence[Sequence[str]], attributes: Sequence[str]) -> tuple[Entity, ...]:
    """Every value is as frequent as the others, or one less so."""
    names = [first + second for first in syllables[0] for second in syllables[1]]
    columns: list[list[str]] = []
    for attribute in attributes:
        values = VALUES[attribute]
        repeated = [values[i % len(values)] for i in range(len(names))]
        columns.append(Draws(_WORLD_SEED, kind, attribute).shuffled(repeated))
    return tuple(
        Entity(name, dict(zip(attributes, facts, strict=True))) for name, *facts in zip(names, *columns, strict=True)
    )


def _senses() -> dict[str, tuple[str, ...]]:
    """Each noun is the sense of as many words as the others."""
    senses: dict[str, tuple[str, ...]] = {}
    per_pass = len(SENSES) // 4
    for start in range(0, len(AMBIGUOUS), per_pass):
        nouns = Draws(_WORLD_SEED, "senses", start).shuffled(SENSES)
        for i, word in enumerate(AMBIGUOUS[start : start + per_pass]):
            senses[word] = tuple(nouns[4 * i : 4 * i + 4])
    return senses
