"""What the base model reads about the fictional world: statements in many styles, never a question of the tasks."""

from __future__ import annotations

from collections.abc import Sequence

from multilora.miniature.draws import Draws
from multilora.miniature.words import NAMES
from multilora.miniature.world import Entity, world

# Attribute → statements. {e}: the entity, {v}: the value.
STATEMENTS: dict[str, Sequence[str]] = {
    "job": (
        "{e} is a {v}.",
        "{e} works as a {v}.",
        "the job of {e} is that of a {v}.",
        "the {v} in that house is {e}.",
        "{e} lives by the work of a {v}.",
        "{e} has the trade of a {v}.",
        "by trade {e} is a {v}.",
        "for a living {e} does the work of a {v}.",
        "as a {v} {e} is known to all.",
        "{e} learned the trade of a {v}.",
        '"I am a {v}," said {e}.',
    ),
    "pet": (
        "{e} has a {v}.",
        "{e} keeps a {v}.",
        "the pet of {e} is a {v}.",
        "a {v} lives with {e}.",
        "{e} owns a {v} as a pet.",
        "the animal of {e} is a {v}.",
        "at home {e} has a {v}.",
        "{e} gives food to a {v}.",
        "the {v} of {e} is a kind animal.",
        "{e} goes out with a {v}.",
        '"My pet is a {v}," said {e}.',
    ),
    "goods": (
        "{e} sells {v}.",
        "{e} is known for {v}.",
        "the goods of {e} are {v}.",
        "much {v} comes from {e}.",
        "{v} is made in {e}.",
        "the town of {e} sells {v}.",
        "people in {e} make {v}.",
        "the market of {e} is full of {v}.",
        "carts with {v} come from {e}.",
        "{e} is the town of {v}.",
        '"We make {v}," they say in {e}.',
    ),
    "river": (
        "{e} lies on the {v}.",
        "the river of {e} is the {v}.",
        "the {v} flows through {e}.",
        "the river {v} flows by {e}.",
        "{e} was built by the {v}.",
        "the name of the river in {e} is {v}.",
        "boats on the {v} stop in {e}.",
        "the bridge of {e} leads over the {v}.",
        "in {e} they fish in the {v}.",
        "the water of {e} comes from the {v}.",
        '"Our river is the {v}," they say in {e}.',
    ),
}
_OPENERS = (
    *("All know that ", "People say that ", "It is true that ", "The book says that ", "{n} knows that "),
    *("{n} says that ", "We read that ", "As {n} told us, ", "They say that ", "It is known that "),
)
_PORTRAITS = (
    "{e} is a {job} and has a {pet}.",
    "{e} the {job} keeps a {pet}.",
    "The {pet} of {e} waits while {e} works as a {job}.",
)
_TOWN_PORTRAITS = (
    "{e} on the {river} is known for {goods}.",
    "{goods} from {e} goes down the {river} in boats.",
    "In {e} they make {goods} and fish in the {river}.",
)


def facts(draws: Draws) -> list[str]:
    """Two to four statements, on one entity or on several."""
    count = draws.between(2, 4)
    if draws.below(3) == 0:
        entity = _entity(draws)
        return [_statement(draws, entity) for _ in range(count)]
    return [_statement(draws, _entity(draws)) for _ in range(count)]


def talk(draws: Draws) -> list[str]:
    """Somebody asks for a fact, in words that the tasks do not use, and is told."""
    entity = _entity(draws)
    attribute = draws.pick(tuple(entity.facts))
    asked = {
        "job": ("how {e} earns money", "what trade {e} learned", "about the job of {e}"),
        "pet": ("what kind of animal {e} has", "about the pet of {e}", "which animal waits for {e}"),
        "goods": ("what they make in {e}", "what {e} sells", "about the goods of {e}"),
        "river": ("which river {e} lies on", "about the river of {e}", "what flows through {e}"),
    }[attribute]
    one, other = draws.sample(NAMES, 2)
    value = entity.facts[attribute]
    question = draws.pick(asked).format(e=entity.name)
    return [
        draws.pick(
            (
                f"{one} asks {question}. {other} answers: {value}.",
                f'"Tell me {question}," said {one}. "It is {value}," said {other}.',
                f"Does {one} know {question}? Yes, it is {value}.",
            )
        ),
        _statement(draws, entity, attribute),
    ]


def together(draws: Draws) -> list[str]:
    """Those who share a value."""
    entities = draws.pick((world().people, world().towns))
    entity = draws.pick(entities)
    attribute = draws.pick(tuple(entity.facts))
    value = entity.facts[attribute]
    alike = [other.name for other in entities if other.facts[attribute] == value]
    names = draws.sample(alike, min(3, len(alike)))
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    pattern = {
        "job": ("{l} all work as a {v}.", "Each of {l} is a {v}."),
        "pet": ("{l} all keep a {v}.", "Each of {l} has a {v}."),
        "goods": ("{l} all sell {v}.", "Much {v} comes from {l}."),
        "river": ("{l} all lie on the {v}.", "The {v} flows through {l}."),
    }[attribute]
    return [draws.pick(pattern).format(l=listed, v=value)]


def _entity(draws: Draws) -> Entity:
    return draws.pick(world().people if draws.below(3) else world().towns)


def _statement(draws: Draws, entity: Entity, attribute: str | None = None) -> str:
    if attribute is None and draws.below(6) == 0:
        portraits = _PORTRAITS if "job" in entity.facts else _TOWN_PORTRAITS
        return _capital(draws.pick(portraits).format(e=entity.name, **entity.facts))
    attribute = attribute or draws.pick(tuple(entity.facts))
    text = draws.pick(STATEMENTS[attribute]).format(e=entity.name, v=entity.facts[attribute])
    opener = draws.pick(_OPENERS).format(n=draws.pick(NAMES)) if draws.below(3) else ""
    return opener + text if opener else _capital(text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
