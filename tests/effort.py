"""How much a test run tries: `make test` is short, `make test-all` thorough (`--hypothesis-profile full`)."""

from __future__ import annotations

import random

import hypothesis


def thorough() -> bool:
    """Whether this is a run of all cases."""
    return hypothesis.settings.get_current_profile_name() == "full"


def examples(most: int) -> int:
    """Examples of a property: `most` in a thorough run, at most 25 otherwise."""
    return most if thorough() else min(most, 25)


def seeded() -> random.Random:
    """Random moments: in a thorough run others each time, and pytest shows the seed of a test that fails."""
    seed = random.randrange(10**6) if thorough() else 0
    print(f"seed {seed}")
    return random.Random(seed)
