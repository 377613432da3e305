"""The words of the miniature's language: what its texts and its tasks are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHE = ("Ann", "Mia", "Eva", "Lena", "Nora", "Ida", "Zoe", "Ruth")
HE = ("Tom", "Ben", "Max", "Sam", "Leo", "Karl", "Finn", "Otto")
NAMES = (*SHE, *HE)

# Each category with its words. No word stands in two of them.
CATEGORIES: Mapping[str, Sequence[str]] = {
    "animal": ("bird", "fish", "cow", "cat", "dog", "goat", "horse", "sheep", "mouse", "duck"),
    "food": ("bread", "soup", "plum", "cheese", "rice", "honey", "cake", "pear", "corn", "milk"),
    "tool": ("knife", "lamp", "rope", "bell", "spoon", "hammer", "brush", "saw", "needle", "broom"),
    "place": ("cave", "bridge", "well", "garden", "hill", "forest", "market", "tower", "beach", "barn"),
    "colour": ("red", "blue", "green", "white", "black", "brown", "grey", "pink"),
}
LISTED = tuple(word for words in CATEGORIES.values() for word in words)

OPPOSITES: Sequence[tuple[str, str]] = (
    ("big", "small"),
    ("old", "new"),
    ("wet", "dry"),
    ("hot", "cold"),
    ("clean", "dirty"),
    ("heavy", "light"),
    ("full", "empty"),
    ("soft", "hard"),
    ("long", "short"),
    ("cheap", "dear"),
)
OPPOSITE = {word: other for pair in OPPOSITES for word, other in (pair, pair[::-1])}
# What can be big or small, old or new, …
OBJECTS = ("cup", "hat", "box", "bag", "chair", "door", "coat", "shoe", "boat", "cart", "plate", "basket")

COUNTED = ("apples", "pens", "shells", "nuts", "coins", "books", "eggs", "stones", "cards", "beads")
HOLDERS = ("bags", "boxes", "jars", "shelves", "rows", "baskets")

# Sentences that fit one noun alone. {w} is the noun, or a made-up word in its place; {n} is somebody's name.
CUES: Mapping[str, Sequence[str]] = {
    "bird": (
        "{n} heard the {w} sing in the tree.",
        "The {w} built a nest for {n}.",
        "{n} saw the {w} fly over the roof.",
        "The {w} of {n} has two wings.",
        "{n} found a feather of the {w}.",
        "The {w} flew away from {n}.",
    ),
    "fish": (
        "{n} saw the {w} swim in the lake.",
        "{n} caught the {w} with a net.",
        "The {w} of {n} lives under water.",
        "{n} pulled the {w} out of the sea.",
        "The {w} swam away from {n}.",
        "{n} threw the {w} back into the river.",
    ),
    "cow": (
        "{n} gets milk from the {w}.",
        "The {w} of {n} eats grass all day.",
        "{n} led the {w} to the meadow.",
        "The {w} of {n} has two horns.",
        "{n} milks the {w} each morning.",
        "The {w} gave birth to a calf, said {n}.",
    ),
    "cat": (
        "The {w} of {n} caught a mouse.",
        "{n} heard the {w} purr.",
        "The {w} drank the cream of {n}.",
        "{n} strokes the fur of the {w}.",
        "The {w} slept on the lap of {n}.",
        "{n} saw the {w} chase mice.",
    ),
    "bread": (
        "{n} baked the {w} in the oven.",
        "{n} put butter on the {w}.",
        "The {w} of {n} is made of flour.",
        "{n} cut a slice of the {w}.",
        "The {w} of {n} has a brown crust.",
        "{n} made toast of the {w}.",
    ),
    "soup": (
        "{n} ate the {w} from a bowl.",
        "{n} stirred the {w} in the pot.",
        "The {w} of {n} needs more salt and water.",
        "{n} cooked the {w} with carrots and peas.",
        "The {w} boils in the pot of {n}.",
        "{n} poured the {w} into a bowl.",
    ),
    "plum": (
        "{n} picked the {w} from the branch.",
        "The {w} of {n} is sweet and ripe.",
        "{n} spat out the stone of the {w}.",
        "{n} dropped the ripe {w}.",
        "The {w} grew on a branch, said {n}.",
        "{n} made jam of the {w}.",
    ),
    "cheese": (
        "{n} smelled the {w} with the holes.",
        "The {w} of {n} was made of goat milk.",
        "{n} keeps the round yellow {w} in the cellar.",
        "{n} melted the {w} over the noodles.",
        "The yellow {w} of {n} smells strong.",
        "{n} counted the holes in the {w}.",
    ),
    "knife": (
        "{n} cut the meat with the {w}.",
        "The {w} of {n} has a sharp blade.",
        "{n} carved wood with the {w}.",
        "The {w} cut the finger of {n}.",
        "{n} ground the blade of the {w}.",
        "{n} slices onions with the {w}.",
    ),
    "lamp": (
        "{n} lit the {w} at night.",
        "The {w} shone in the dark room of {n}.",
        "{n} read by the glow of the {w}.",
        "{n} put oil into the {w}.",
        "The {w} of {n} went out in the dark.",
        "{n} turned on the {w} at night.",
    ),
    "rope": (
        "{n} tied the boat with the {w}.",
        "The {w} of {n} has a knot.",
        "{n} climbed up the {w}.",
        "{n} made a knot in the {w}.",
        "The {w} of {n} holds the tent.",
        "{n} tied a bundle with the {w}.",
    ),
    "bell": (
        "{n} rang the {w} at noon.",
        "The {w} called {n} to school.",
        "{n} heard the {w} ring.",
        "The {w} of {n} rings loudly.",
        "{n} heard a clang from the {w}.",
        "The {w} rang when {n} came to school.",
    ),
    "cave": (
        "{n} hid from the bear in the {w}.",
        "Bats live in the {w}, said {n}.",
        "{n} found old paintings on the walls of the {w}.",
        "{n} saw bats in the deep {w}.",
        "The {w} goes deep into the rock, said {n}.",
        "{n} was lost in the {w} under the mountain.",
    ),
    "bridge": (
        "{n} crossed the stream on the {w}.",
        "The {w} leads {n} across the stream.",
        "{n} stood on the {w} and looked down at the stream.",
        "{n} rode across the {w}.",
        "Boats pass under the {w}, said {n}.",
        "{n} walked over the {w} to the other bank.",
    ),
    "well": (
        "{n} drew water from the {w}.",
        "{n} let the bucket down into the {w}.",
        "The {w} of {n} gives fresh water.",
        "The bucket of {n} fell into the {w}.",
        "{n} dug the {w} to find water.",
        "{n} filled a bucket at the {w}.",
    ),
    "garden": (
        "{n} planted roses in the {w}.",
        "Flowers grow in the {w} of {n}.",
        "{n} pulled weeds in the {w}.",
        "{n} watered the flowers in the {w}.",
        "The {w} of {n} is full of roses.",
        "{n} sat among the flowers of the {w}.",
    ),
}
SENSES = tuple(CUES)

# Made-up words: what each can mean is drawn in `world.py`.
AMBIGUOUS = (
    *("lom", "vesk", "tarb", "nool", "brin", "quav", "zeff", "hupe", "dorv", "miff", "skel", "gant"),
    *("plon", "wurr", "chib", "frod", "jask", "neth", "olp", "reb", "sturn", "teg", "ulm", "yasp"),
)
