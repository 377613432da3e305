"""How much a test run tries: `make test` is short, `make test-all` thorough (`--hypothesis-profile full`)."""

from __future__ import annotations

import hypothesis


def thorough() -> bool:
    """Whether this is a run of all cases."""
    return hypothesis.settings.get_current_profile_name() == "full"


def examples(most: int) -> int:
    """Examples of a property: `most` in a thorough run, at most 25 otherwise."""
    return most if thorough() else min(most, 25)
