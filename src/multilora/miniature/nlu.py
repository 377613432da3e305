"""The two tasks of language understanding: what follows from facts, and what a made-up word means in its sentence."""

from __future__ import annotations

from multilora.miniature.draws import Draws
from multilora.miniature.rows import Row, divided, split_of
from multilora.miniature.words import CUES, NAMES, OBJECTS, OPPOSITE, SENSES
from multilora.miniature.world import world
from multilora.tasks.example import Split

LABELS = ("Yes", "No", "Unknown")


def entailment_row(draws: Draws, split: Split, seed: int) -> Row:
    """Two facts and a question about one of their objects. No combination of facts is in two splits.

    Unknown is what the facts do not say of this object; half of the time they say it of the other one.
    """
    while True:
        objects, adjectives = draws.sample(OBJECTS, 2), [draws.pick(tuple(OPPOSITE)) for _ in range(2)]
        others = {word for adjective in adjectives for word in (adjective, OPPOSITE[adjective])}
        facts = [f"The {thing} is {adjective}." for thing, adjective in zip(objects, adjectives, strict=True)]
        if len(others) == 4 and split_of(seed, "facts", *sorted(facts)) == split:
            break
    place, label = draws.below(2), draws.pick(LABELS)
    said = adjectives[place]
    match label:
        case "Yes":
            asked = said
        case "No":
            asked = OPPOSITE[said]
        case _:
            elsewhere = adjectives[1 - place]
            nowhere = draws.pick([word for word in OPPOSITE if word not in others])
            asked = draws.pick((elsewhere, nowhere))
    prompt = f"{' '.join(facts)}\nQuestion: Is the {objects[place]} {asked}?\nAnswer:"
    return Row(prompt, f" {label}", label, tuple(f" {name}" for name in LABELS))


def sense_row(draws: Draws, split: Split, seed: int) -> Row:
    """A sentence that fits one of the word's four meanings. No sentence is in two splits, whatever word is in it."""
    word = draws.pick(tuple(world().senses))
    sense = draws.pick(world().senses[word])
    cue = draws.pick(cues_of(seed, sense)[split])
    prompt = f"{cue.format(w=word, n=draws.pick(NAMES))}\nQuestion: What does {word} mean here?\nAnswer:"
    return Row(prompt, f" {sense}", sense, tuple(f" {noun}" for noun in world().senses[word]))


def cues_of(seed: int, noun: str) -> dict[Split, list[str]]:
    """A noun's sentences: three for training, one for validation, two for the test."""
    assert noun in SENSES
    return divided(seed, f"cues of {noun}", CUES[noun], validation=1, test=2)
