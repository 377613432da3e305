"""The miniature's eight tasks, two for each category of the paper, generated from a seed.

| task | what is asked | answer | what no two splits share |
|---|---|---|---|
| instruction_order | an operation on the places of words | free text | lists of words |
| instruction_pick | an operation on words by their meaning or neighbour | free text | lists of words |
| nlu_entailment | does something follow from two facts | 3 choices | combinations of facts |
| nlu_sense | what a made-up word means in a sentence | 4 choices | sentences |
| knowledge_people | facts on people of the fictional world | 4 choices | people, and wordings |
| knowledge_towns | facts on its towns | 4 choices | towns, and wordings |
| arithmetic_change | two steps of + and - | worked, with a final number | triples of numbers |
| arithmetic_groups | two steps, one of them * | worked, with a final number | triples of numbers |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multilora.miniature.arithmetic import change_row, groups_row
from multilora.miniature.draws import Draws
from multilora.miniature.instruction import order_row, pick_row
from multilora.miniature.knowledge import people_row, towns_row
from multilora.miniature.nlu import entailment_row, sense_row
from multilora.miniature.rows import SPLITS, Row
from multilora.storage.folders import write_text
from multilora.tasks.example import Split

TASKS: Mapping[str, Callable[[Draws, Split, int], Row]] = {
    "instruction_order": order_row,
    "instruction_pick": pick_row,
    "nlu_entailment": entailment_row,
    "nlu_sense": sense_row,
    "knowledge_people": people_row,
    "knowledge_towns": towns_row,
    "arithmetic_change": change_row,
    "arithmetic_groups": groups_row,
}
SIZES: Mapping[Split, int] = {"train": 2000, "validation": 100, "test": 200}
_TRIES = 50


def generate_tasks(
    seed: int = 0, sizes: Mapping[Split, int] = SIZES, names: Sequence[str] = tuple(TASKS)
) -> dict[str, dict[Split, list[dict[str, Any]]]]:
    """The rows of each task and split; no prompt comes twice within a task.

    Fewer rows of the same seed are the first ones of more.

    Args:
        seed: not negative. It decides the splits too: what is a training sentence of one seed may be a test sentence of
            another.
        sizes: rows of each split.
        names: which tasks.

    Returns:
        Rows with `id`, `prompt`, `completion`, `answer` (the words, the choice without its space, or the final number)
        and, where there are choices, `choices`, which has the completion.

    Raises:
        ValueError: the task has not as many different rows.
    """
    return {name: {split: _rows(name, split, seed, sizes.get(split, 0)) for split in SPLITS} for name in names}


def write_tasks(folder: Path, seed: int = 0, sizes: Mapping[Split, int] = SIZES) -> None:
    """Write `TASK/train.jsonl`, `TASK/validation.jsonl` and `TASK/test.jsonl` for each task; arguments: as above."""
    for name, splits in generate_tasks(seed, sizes).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            write_text(folder / name / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _rows(name: str, split: Split, seed: int, count: int) -> list[dict[str, Any]]:
    draws, make = Draws(seed, "task", name, split), TASKS[name]
    rows: dict[str, Row] = {}
    for _ in range(_TRIES * count):
        if len(rows) == count:
            break
        row = make(draws, split, seed)
        rows.setdefault(row.prompt, row)
    if len(rows) < count:
        raise ValueError(f"{name} has too few different rows for {count:,} of {split}; it has about {len(rows):,}")
    return [_as_dict(f"{split}-{number}", row) for number, row in enumerate(rows.values())]


def _as_dict(row_id: str, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"id": row_id, "prompt": row.prompt, "completion": row.completion, "answer": row.answer}
    return found | ({"choices": list(row.choices)} if row.choices else {})
