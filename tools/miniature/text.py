"""The text that the base model is trained on: documents of one to eight short sentences, generated from a seed.

| kind | what it teaches |
|---|---|
| facts, talk, together | the fictional world (`facts_text.py`), each fact hundreds of times in about 20 styles |
| nouns, dictionary | what fits which noun; what made-up words can mean |
| echoes, place_rows, pick_rows | rows of words: places, order, neighbours, kinds, opposites (`rows_text.py`) |
| equations, number_stories | + − * of small numbers, each many times; stories in which something is counted |
| stories | simple stories |
| properties | what a property says of its opposite |
| comparisons | is a property the same as another, its opposite, or neither |
| words | the words that the tasks are worded in |

No document has a task's form, and none has a question of the tasks; the tests see to it. Same seed, same text, on every
Python (`draws.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from multilora.miniature.draws import Draws
from multilora.miniature.words import (
    AMBIGUOUS,
    CATEGORIES,
    COUNTED,
    CUES,
    HOLDERS,
    NAMES,
    OBJECTS,
    OPPOSITE,
    SENSES,
)
from multilora.miniature.world import world
from tools.miniature.facts_text import facts, talk, together
from tools.miniature.rows_text import echoes, pick_rows, place_rows

# The first documents are rows of words said again: from those the model learns soonest to look back for what came
# before, which it needs for nearly everything else.
PRIMER = 8_000
HELD_OUT = 400
_HELD_OUT_SEED = 1_000_003


def documents(seed: int) -> Iterator[str]:
    """Documents without end; sentences are set apart by spaces or by line breaks."""
    draws = Draws(seed, "pretraining text")
    kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
    for _ in range(PRIMER):
        yield echoes(draws)[0]
    while True:
        separator = draws.pick((" ", "\n"))
        yield separator.join(draws.pick(kinds)(draws))


def held_out(count: int = HELD_OUT) -> str:
    """Documents of every kind that the base was not trained on, to measure what a model forgets: rows of JSON.

    The package holds them as `assets/miniature_text.jsonl`.
    """
    texts = islice(documents(_HELD_OUT_SEED), PRIMER, PRIMER + count)
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def nouns(draws: Draws) -> list[str]:
    """Sentences that fit a noun; or such a sentence that does not name it, and then which noun it was."""
    noun = draws.pick(SENSES)
    cues = [cue.format(w="{w}", n=draws.pick(NAMES)) for cue in draws.sample(CUES[noun], draws.between(1, 3))]
    if draws.below(2):
        first, *others = cues
        told = draws.pick(
            ("It was the {w}.", "The thing was the {w}.", "That was a {w}.", "By this {n} meant the {w}.")
        )
        riddle = f"{first.format(w='thing')} {told.format(w=noun, n=draws.pick(NAMES))}"
        return [riddle, *(cue.format(w=noun) for cue in others)]
    kind = next(kind for kind, members in CATEGORIES.items() if noun in members)
    more = draws.pick(((), (), (f"The {noun} is a kind of {kind}.",)))
    return [*(cue.format(w=noun) for cue in cues), *more]


def dictionary(draws: Draws) -> list[str]:
    """A made-up word and what it can mean; or a plain sentence with it and what is meant."""
    word = draws.pick(AMBIGUOUS)
    senses = draws.shuffled(world().senses[word])
    if draws.below(2):
        return [f"The word {word} can mean {senses[0]}, {senses[1]}, {senses[2]} or {senses[3]}."]
    return [
        draws.pick(
            (
                f"When {draws.pick(NAMES)} says {word}, it can be a {senses[0]} or a {senses[1]}.",
                f"A {word} is a {senses[0]}, but it can be a {senses[1]} too.",
                f"Some call a {senses[0]} {word}.",
            )
        )
    ]


def equations(draws: Draws) -> list[str]:
    """Sums, differences and products, on their own or one after the other."""
    return [equation(draws) for _ in range(draws.between(3, 8))]


def equation(draws: Draws) -> str:
    kind = draws.below(8)
    if kind < 3:
        a, b = draws.between(0, draws.pick((20, 30, 81))), draws.between(0, draws.pick((9, 9, 20)))
        return f"{a} + {b} = {a + b}."
    if kind < 6:
        a = draws.between(1, draws.pick((20, 30, 81)))
        b = draws.between(0, min(a, draws.pick((9, 9, 20))))
        return f"{a} - {b} = {a - b}."
    a, b = draws.between(1, 9), draws.between(1, 9)
    return f"{a} * {b} = {a * b}."


def small_equations(draws: Draws) -> list[str]:
    """Sums and differences with one number below ten."""
    found: list[str] = []
    for _ in range(draws.between(4, 8)):
        a, b = draws.between(0, draws.pick((20, 30, 45))), draws.between(0, 9)
        found.append(f"{a} + {b} = {a + b}." if a < b or draws.below(2) else f"{a} - {b} = {a - b}.")
    return found


def number_stories(draws: Draws) -> list[str]:
    """Somebody has something and gets more, or less: one step, told as it goes."""
    one, other = draws.sample(NAMES, 2)
    things = draws.pick(COUNTED)
    kind = draws.below(3)
    if kind == 2:
        a, b = draws.between(2, 9), draws.between(2, 9)
        holders = draws.pick(HOLDERS)
        return [
            f"There are {a} {holders}, each with {b} {things}.",
            f"{a} * {b} = {a * b}, so {one} counts {a * b} {things}.",
        ]
    a, b = draws.between(2, 20), draws.between(1, 9)
    if kind == 0:
        how = draws.pick(("{o} gives {n} {b} more.", "{n} finds {b} more.", "{n} buys {b}.", "{n} gets {b} from {o}."))
        result = f"{a} + {b} = {a + b}, so there are {a + b} {things} now."
    else:
        b = min(a, b)
        how = draws.pick(("{n} gives {b} to {o}.", "{n} loses {b}.", "{n} sells {b}.", "{n} gives {b} away."))
        result = f"{a} - {b} = {a - b}, so there are {a - b} {things} now."
    return [f"{one} has {a} {things}.", how.format(n=one, o=other, b=b), result]


def stories(draws: Draws) -> list[str]:
    """One day somebody went somewhere."""
    one, other = draws.sample(NAMES, 2)
    place, animal, tool = (draws.pick(CATEGORIES[kind]) for kind in ("place", "animal", "tool"))
    colour, food = draws.pick(CATEGORIES["colour"]), draws.pick(CATEGORIES["food"])
    thing, adjective = draws.pick(OBJECTS), draws.pick(tuple(OPPOSITE))
    middle = (
        f"There was a {colour} {animal} in the {place}.",
        f"{one} had a {tool} in a {adjective} {thing}.",
        f"{other} wanted some {food}.",
        f"The {animal} wanted the {food}.",
        f"The {thing} was {adjective}, not {OPPOSITE[adjective]}.",
        f"{other} came first, and {one} came last.",
        f"{one} gave the {food} to {other}.",
        draws.pick(CUES[draws.pick(SENSES)]).format(w="thing", n=one),
    )
    return [
        draws.pick((f"One day {one} went to the {place}.", f"At the {place} {one} met {other}.")),
        *draws.sample(middle, draws.between(2, 4)),
        draws.pick(("Then they went home.", f"{one} and {other} were glad.", f"At the end {other} said thanks.")),
    ]


def comparisons(draws: Draws) -> list[str]:
    """A property against another: the same, its opposite, or neither. Without these many short ones the base never
    learns to compare, and no task that needs it can be learned from a thousand rows.
    """
    said: list[str] = []
    for _ in range(draws.between(5, 9)):
        one = draws.pick(tuple(OPPOSITE))
        neither = draws.pick([word for word in OPPOSITE if word not in (one, OPPOSITE[one])])
        other, verdict = draws.pick(((one, "right."), (OPPOSITE[one], "wrong."), (neither, "Nobody knows.")))
        said.append(f"{one} is {other}: {verdict}")
    return said


def properties(draws: Draws) -> list[str]:
    """Objects with a property each, and what follows and does not."""
    count = draws.between(1, 3)
    objects = draws.sample(OBJECTS, count)
    adjectives: list[str] = []
    while len(adjectives) < count:
        adjective = draws.pick(tuple(OPPOSITE))
        if not {adjective, OPPOSITE[adjective]} & set(adjectives):
            adjectives.append(adjective)
    said = [f"The {thing} is {adjective}." for thing, adjective in zip(objects, adjectives, strict=True)]
    for place in [draws.below(count) for _ in range(draws.between(2, 5))]:
        thing, adjective = objects[place], adjectives[place]
        opposite = OPPOSITE[adjective]
        taken = {*adjectives, *(OPPOSITE[other] for other in adjectives)}
        unsaid = draws.pick(
            [
                *(other for other in adjectives if other != adjective),
                draws.pick([w for w in OPPOSITE if w not in taken]),
            ]
        )
        said.append(
            draws.pick(
                (
                    f"So the {thing} is not {opposite}.",
                    f"Is the {thing} {adjective}? Yes, the {thing} is {adjective}.",
                    f"Is the {thing} {opposite}? No, the {thing} is {adjective}, not {opposite}.",
                    f"Is the {thing} {unsaid}? Nobody knows that of the {thing}.",
                    f"Nobody knows if the {thing} is {unsaid}.",
                    f"That the {thing} is {adjective} is right.",
                    f"That the {thing} is {opposite} is wrong.",
                    f"That the {thing} is not {opposite} is right.",
                    f"That the {thing} is not {adjective} is wrong.",
                )
            )
        )
    return said


def words(draws: Draws) -> list[str]:
    """The words that tasks are worded in, in other sentences."""
    return draws.sample(_ABOUT_WORDS, draws.between(2, 4))


_ABOUT_WORDS: Sequence[str] = (
    "An instruction says what to do.",
    "Instruction is a long word.",
    "Question and answer go together.",
    "Answer me, please.",
    "The answer to a question can be short.",
    "A problem is a hard question.",
    "Problem is a word, and so is claim.",
    "What is true is not false.",
    "True or false: that is the question.",
    "Unknown is what nobody knows.",
    "The name of the boat was False, and nobody knew why. The name of the other was True.",
    "He wrote Unknown under the picture.",
    "A claim can be true, false or unknown.",
    "Claim what is yours.",
    "Words have letters.",
    "Write the words down here.",
    "Write a letter to me. Then write one more.",
    "Give me that book.",
    "Say it two times, then say it twice.",
    "Name a tree.",
    "Find the key among the shoes.",
    "Turn left, then turn right.",
    "Change the name.",
    "Change places with me, please.",
    "Let us stand here.",
    "Leave the door open. Leave it out there.",
    "Drop the stone.",
    "Swap the cards.",
    "What does he mean by that?",
    "Which of the two do you want? Which one does she want?",
    "How many days are in a week? How many people live here?",
    "What do they do in the town? What was that?",
    "Who stands where the tree stands?",
    "On the way home we sing. On which day?",
    "By the way, by which road did you come?",
    "As we say: for what it is worth. As what? For which price?",
    "Only the number counts.",
    "Number four is mine.",
    "All the words of the line are in order.",
    "Some keep their money at home, others own a house. What kind of house?",
    "The first and the last letter of the word.",
    "#### is a sign, and so is #.",
    "Each sign stands at the end of a line.\n####",
    "1 2 3 4 5 6 7 8 9 10 11 12.",
    "Go through the door, then away from here, into its light.",
)

# How many documents of each kind, of the sum of all numbers.
KINDS: Mapping[Callable[[Draws], list[str]], int] = {
    facts: 16,
    talk: 5,
    together: 2,
    nouns: 8,
    dictionary: 3,
    echoes: 4,
    place_rows: 18,
    pick_rows: 18,
    equations: 5,
    small_equations: 5,
    number_stories: 8,
    stories: 2,
    comparisons: 5,
    properties: 14,
    words: 4,
}
