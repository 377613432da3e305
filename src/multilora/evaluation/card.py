"""Scores in the model card of what was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from multilora.adapter.card import folder_card
from multilora.errors import InputError
from multilora.evaluation.saved import EvaluationResults
from multilora.runs.card import CardScore, with_scores, write_run_card
from multilora.runs.find import Adapter, Run, find
from multilora.runs.layout import RESULTS_FILE
from multilora.runs.records import RunResults
from multilora.storage.model_card import CARD_FILE, is_ours, write_card


def renew_card(target: str, out: Path, note: Callable[[str], None]) -> None:
    """Have the card that we wrote of a run's weights, or of an adapter, say how they score. No other card is touched.

    Args:
        target: what was evaluated.
        out: the folder of the evaluation's results.
        note: receives a line if the card cannot be renewed: no reason to lose an evaluation.
    """
    try:
        found = find(target)
        if isinstance(found, Adapter):
            run = found.run()
            if run is not None and run.weights.resolve() == found.path.resolve():
                found = run
        if isinstance(found, Run) and is_ours(found.weights / CARD_FILE):
            files = {file.resolve() for file in (*found.layout.evaluations(), out)}
            scores = [score for file in sorted(files) for score in _scores(file, found.weights)]
            write_run_card(found.recipe, RunResults.read(found.layout.results), found.weights, scores)
        elif isinstance(found, Adapter) and is_ours(found.path / CARD_FILE):
            write_card(found.path, with_scores(folder_card(found.path), list(_scores(out, found.path))))
    except InputError as error:
        note(f"the model card is left as it is: {error}")


def _scores(folder: Path, weights: Path) -> Iterator[CardScore]:
    """Of an evaluation, if it is one of these weights."""
    results = EvaluationResults.read(folder / RESULTS_FILE)
    if results.adapter is None:
        same = Path(results.model).resolve() == weights.resolve()
    else:
        same = Path(results.adapter).name == weights.name  # the run may have been moved since
    if not same:
        return
    split = results.split if results.limit is None else f"{results.split}, {results.limit} rows of each task at most"
    for name, task in results.tasks.items():
        for metric, score in task.metrics.items():
            yield CardScore(name, split, metric, score.value, score.interval, score.count)
