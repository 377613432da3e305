"""The two arithmetic tasks: word problems in two steps, with worked answers. No three numbers are in two splits."""

from __future__ import annotations

from collections.abc import Sequence

from multilora.miniature.draws import Draws
from multilora.miniature.rows import Row, split_of
from multilora.miniature.words import COUNTED, HOLDERS, NAMES
from multilora.tasks.example import Split

MORE: Sequence[str] = ("gets {x} more", "finds {x} more", "buys {x} more")
LESS: Sequence[str] = ("loses {x}", "gives away {x}", "sells {x}")


def change_row(draws: Draws, split: Split, seed: int) -> Row:
    """Something grows or shrinks twice."""
    while True:
        start, numbers = draws.between(2, 20), (draws.between(1, 9), draws.between(1, 9))
        signs = draws.pick("+-"), draws.pick("+-")
        middle = start + numbers[0] * (1 if signs[0] == "+" else -1)
        end = middle + numbers[1] * (1 if signs[1] == "+" else -1)
        if min(middle, end) >= 1 and split_of(seed, "change", start, *numbers) == split:
            break
    name, things = draws.pick(NAMES), draws.pick(COUNTED)
    first, second = (
        draws.pick(MORE if sign == "+" else LESS).format(x=number) for sign, number in zip(signs, numbers, strict=True)
    )
    prompt = f"{name} has {start} {things}. {name} {first}, then {second}. How many {things} does {name} have now?"
    return _row(prompt, (start, signs[0], numbers[0], middle), (middle, signs[1], numbers[1], end))


def groups_row(draws: Draws, split: Split, seed: int) -> Row:
    """A number of groups of one size, and something more, less, or mixed within the groups."""
    while True:
        a, b, c = draws.between(2, 9), draws.between(2, 9), draws.between(1, 9)
        pattern = draws.pick(("+", "-", "mixed"))
        fits = b + c <= 9 if pattern == "mixed" else a * b - c >= 1 and a * b <= 40
        if fits and split_of(seed, "groups", a, b, c) == split:
            break
    name, things, holders = draws.pick(NAMES), draws.pick(COUNTED), draws.pick(HOLDERS)
    question = f"How many {things} does {name} have now?"
    if pattern == "mixed":
        prompt = f"{name} has {a} {holders} with {b} old and {c} new {things} in each. {question}"
        return _row(prompt, (b, "+", c, b + c), (b + c, "*", a, (b + c) * a))
    then = draws.pick(MORE if pattern == "+" else LESS).format(x=c)
    prompt = f"{name} has {a} {holders} with {b} {things} in each. {name} {then}. {question}"
    end = a * b + c if pattern == "+" else a * b - c
    return _row(prompt, (a, "*", b, a * b), (a * b, pattern, c, end))


def _row(problem: str, *steps: tuple[int, str, int, int]) -> Row:
    worked = " ".join(f"{a} {sign} {b} = {result}." for a, sign, b, result in steps)
    answer = str(steps[-1][3])
    return Row(f"Problem: {problem}\nAnswer:", f" {worked}\n#### {answer}", answer)
