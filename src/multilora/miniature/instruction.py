"""The two instruction tasks: do with a few words what the instruction says. No list of words is in two splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multilora.miniature.draws import Draws
from multilora.miniature.rows import Row, split_of
from multilora.miniature.words import CATEGORIES, LISTED, OPPOSITE
from multilora.tasks.example import Split

# Operation → what it does, and how it is said.
ORDER: dict[str, tuple[Callable[[list[str]], list[str]], Sequence[str]]] = {
    "reverse": (
        lambda words: words[::-1],
        ("Write the words in reverse order.", "Write the words from last to first."),
    ),
    "first": (
        lambda words: words[:1],
        ("Give the first word.", "Which word comes first?", "Write the word at the start."),
    ),
    "second": (
        lambda words: words[1:2],
        ("Give the second word.", "Which word comes second?", "Write word number two."),
    ),
    "last": (
        lambda words: words[-1:],
        ("Give the last word.", "Which word comes last?", "Write the word at the end."),
    ),
    "swap": (
        lambda words: [words[-1], *words[1:-1], words[0]],
        ("Swap the first and the last word.", "Let the two words at the ends change places."),
    ),
    "without first": (
        lambda words: words[1:],
        ("Leave out the first word.", "Write all words but the first.", "Drop the word at the start."),
    ),
    "without last": (
        lambda words: words[:-1],
        ("Leave out the last word.", "Write all words but the last.", "Drop the word at the end."),
    ),
    "twice": (
        lambda words: [words[0], words[0]],
        ("Write the first word twice.", "Say the word at the start two times."),
    ),
}

# Operation → how it is said.
PICK: dict[str, Sequence[str]] = {
    "category": ("Name the {x}.", "Which word is a kind of {x}?", "Find the {x} among the words."),
    "without category": ("Leave out the {x}.", "Write all words but the {x}."),
    "replace": ("Write {y} in place of {x}.", "Change {x} to {y}.", "Let {y} stand where {x} stands."),
    "after": ("Which word comes after {x}?", "Give the word right after {x}."),
    "before": ("Which word comes before {x}?", "Give the word right before {x}."),
    "opposite": ("Give the opposite of each word.", "Turn each word into its opposite."),
}


def order_row(draws: Draws, split: Split, seed: int) -> Row:
    """An operation on the places of three or four words."""
    apply, phrasings = draws.pick(list(ORDER.values()))
    words = _words(draws, split, seed, lambda: draws.sample(LISTED, draws.between(3, 4)))
    return _row(draws.pick(phrasings), words, apply(words))


def pick_row(draws: Draws, split: Split, seed: int) -> Row:
    """An operation on the meaning of words, or beside a word."""
    operation, phrasings = draws.pick(list(PICK.items()))
    phrasing = draws.pick(phrasings)
    if operation == "opposite":
        words = _words(draws, split, seed, lambda: draws.sample(tuple(OPPOSITE), draws.between(2, 3)))
        return _row(phrasing, words, [OPPOSITE[word] for word in words])
    # One word of each category, so that there is one word of any category.
    words = _words(
        draws, split, seed, lambda: [draws.pick(CATEGORIES[kind]) for kind in draws.sample(tuple(CATEGORIES), 4)]
    )
    place = draws.below(len(words))
    x = words[place]
    match operation:
        case "category" | "without category":
            category = next(kind for kind, members in CATEGORIES.items() if x in members)
            result = [x] if operation == "category" else [word for word in words if word != x]
            return _row(phrasing.format(x=category), words, result)
        case "replace":
            y = draws.pick([word for word in LISTED if word not in words])
            return _row(phrasing.format(x=x, y=y), words, [y if word == x else word for word in words])
        case "after":
            place = draws.below(len(words) - 1)
            return _row(phrasing.format(x=words[place]), words, [words[place + 1]])
        case _:
            place = draws.between(1, len(words) - 1)
            return _row(phrasing.format(x=words[place]), words, [words[place - 1]])


def _words(draws: Draws, split: Split, seed: int, draw: Callable[[], list[str]]) -> list[str]:
    while split_of(seed, "words", *sorted(words := draw())) != split:
        pass
    return words


def _row(instruction: str, words: Sequence[str], result: Sequence[str]) -> Row:
    answer = " ".join(result)
    return Row(f"Instruction: {instruction}\nWords: {' '.join(words)}\nAnswer:", f" {answer}", answer)
