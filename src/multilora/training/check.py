"""`multilora data check`: what a recipe trains on and evaluates on too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multilora.data.leakage import LeakReport, Pair, find_leaks
from multilora.recipe.file import load_recipe
from multilora.training.prepare import open_tasks


def check_recipe(path: Path, overrides: Sequence[str] = ()) -> LeakReport:
    """What the training rows and the evaluation rows of a recipe's tasks share.

    Raises:
        InputError: as `load_recipe` and `open_tasks` say; a training file makes no sense.
    """
    return find_leaks(open_tasks(load_recipe(path, overrides)))


def check_facts(report: LeakReport) -> dict[str, Any]:
    """The report as plain data for JSON, with every row."""
    return {
        "leaked_rows": report.leaked_rows,
        "leaks": [_pair(pair) for pair in report.leaks],
        "shared": [_pair(pair) for pair in report.shared],
        "read": report.read,
        "unread": report.unread,
    }


def _pair(pair: Pair) -> dict[str, Any]:
    rows = [[{"source": row.source, "id": row.id} for row in match] for match in pair.matches]
    return {
        "first": pair.first,
        "second": pair.second,
        "first_rows": pair.first_rows,
        "second_rows": pair.second_rows,
        "matches": rows,
    }
