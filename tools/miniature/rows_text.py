"""Sentences about rows of words: their places, order and neighbours; their categories and opposites."""

from __future__ import annotations

from collections.abc import Sequence

from multilora.miniature.draws import Draws
from multilora.miniature.words import AMBIGUOUS, CATEGORIES, COUNTED, LISTED, NAMES, OBJECTS, OPPOSITE
from multilora.miniature.world import VALUES, world

_ANY: Sequence[Sequence[str]] = (
    *(LISTED, LISTED, LISTED, tuple(OPPOSITE), tuple(OPPOSITE), NAMES, OBJECTS, COUNTED, AMBIGUOUS),
    *(*VALUES.values(), tuple(entity.name for entity in (*world().people, *world().towns))),
    *(tuple("0123456789"), tuple("0123456789")),
)


def echoes(draws: Draws) -> list[str]:
    """A row of any words, said again two to four times, at times from some word on."""
    words = [draws.pick(draws.pick(_ANY)) for _ in range(draws.between(5, 14))]
    starts = [0, 0, *(draws.pick((0, 0, draws.below(len(words) - 1))) for _ in range(draws.between(1, 3)))]
    said = ", ".join(" ".join(words[start:]) for start in starts)
    return [f"{draws.pick(('Say', 'We say', 'They read'))} {said}."]


def place_rows(draws: Draws) -> list[str]:
    """A row of words, and three to six remarks on its places."""
    words = draws.sample((*LISTED, *OPPOSITE), draws.between(3, 5))
    row = " ".join(words)
    back, swapped = " ".join(words[::-1]), " ".join([words[-1], *words[1:-1], words[0]])
    rest, front = " ".join(words[1:]), " ".join(words[:-1])
    remarks = [
        f"in reverse order it is {back}.",
        f"backwards: {back}.",
        f"from last to first we read {back}.",
        f"the first is {words[0]}.",
        f"at the start is {words[0]}.",
        f"the last is {words[-1]}.",
        f"at the end is {words[-1]}.",
        f"the second is {words[1]}.",
        f"number two is {words[1]}.",
        f"the two at the ends are {words[0]} and {words[-1]}.",
        f"when the ends change places we get {swapped}.",
        f"if we swap the first and the last it is {swapped}.",
        f"without the first it is {rest}.",
        f"drop {words[0]}, and we have {rest}.",
        f"without the last it is {front}.",
        f"leave out {words[-1]}, and we have {front}.",
        f"the first said twice is {words[0]} {words[0]}.",
        f"the row again: {row}.",
    ]
    return _remarks(draws, row, remarks)


def pick_rows(draws: Draws) -> list[str]:
    """A row of words of different kinds, and three to six remarks on kinds and neighbours; or opposites."""
    if draws.below(4) == 0:
        words = draws.sample(tuple(OPPOSITE), draws.between(1, 3))
        one, other = " ".join(words), " ".join(OPPOSITE[word] for word in words)
        return [
            draws.pick(
                (
                    f"The opposite of {one} is {other}.",
                    f"Take {one}: the opposite is {other}.",
                    f"What is not {one} is {other}.",
                )
            )
        ]
    if draws.below(4) == 0:
        kind = draws.pick(tuple(CATEGORIES))
        one, other = draws.sample(CATEGORIES[kind], 2)
        return [
            draws.pick(
                (f"The word {one} is a kind of {kind}, and so is {other}.", f"A {kind} can be {one} or {other}.")
            )
        ]
    kinds = draws.sample(tuple(CATEGORIES), draws.between(2, 4))
    words = [draws.pick(CATEGORIES[kind]) for kind in kinds]
    place = draws.below(len(words))
    here, kind, row = words[place], kinds[place], " ".join(words)
    without = " ".join(word for word in words if word != here)
    after = 1 + draws.below(len(words) - 1)
    new = draws.pick([word for word in LISTED if word not in words])
    changed = " ".join(new if word == here else word for word in words)
    remarks = [
        f"the {kind} is {here}.",
        f"of these {here} is a {kind}.",
        f"without the {kind} it is {without}.",
        f"leave out {here}, and we have {without}.",
        f"after {words[after - 1]} comes {words[after]}.",
        f"right after {words[after - 1]} is {words[after]}.",
        f"before {words[after]} comes {words[after - 1]}.",
        f"right before {words[after]} is {words[after - 1]}.",
        f"with {new} in place of {here} it is {changed}.",
        f"if {here} changes to {new} it is {changed}.",
        f"the row again: {row}.",
    ]
    return _remarks(draws, row, remarks)


def _remarks(draws: Draws, row: str, remarks: list[str]) -> list[str]:
    opener = draws.pick(("Take {r}.", "The row is {r}.", "{n} wrote {r}.", "Here we have {r}.", "These are {r}."))
    chosen = draws.sample(remarks, draws.between(3, 6))
    return [opener.format(r=row, n=draws.pick(NAMES)), *(remark[0].upper() + remark[1:] for remark in chosen)]
