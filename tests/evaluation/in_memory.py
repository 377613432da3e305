"""Tasks whose rows are given, and the harness's own tasks on rows that are given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Scoring, Split

CHOICES = Scoring("choices", ("accuracy",))
QUESTIONS = Scoring("choices", ("f1_over_answers", "exact_match_of_questions"))
NUMBER = Scoring("final_number", ("exact_match",))


@dataclass
class GivenTask:
    """A task of given rows, which are its test split."""

    name: str
    rows: Sequence[Example | BadRow]
    scoring: Scoring = field(default_factory=lambda: CHOICES)

    def check(self, split: Split = "train") -> None: ...

    def train_rows(self) -> Iterator[Example | BadRow]:
        return iter(())

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        if split == "validation":
            raise NoSplitError(f"tasks.{self.name}: no validation split")
        return iter(self.rows)

    def shown_rows(self) -> Iterator[Example | BadRow]:
        return iter(())

    def files(self, split: Split) -> list[Path]:
        return []

    def groups(self, example: Example) -> Mapping[str, str]:
        return {}


def yes_no(prompts: Iterable[str], groups: Mapping[int, str] | None = None) -> list[Example]:
    """One row per prompt, yes and no in turns."""
    choices = (" one", " two")
    return [
        Example(text, choices[i % 2], f"row {i}", f"id-{i}", choices, (choices[i % 2],), (groups or {}).get(i, ""))
        for i, text in enumerate(prompts)
    ]


def harness_folder() -> Path:
    """The harness's own task definitions."""
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


def stock_task(folder: Path, definition: str, rows: Sequence[Mapping[str, Any]], **changes: Any) -> Any:
    """A task of the harness by its own definition, offline: the rows, in the hub's columns, come from a JSONL file.

    Args:
        folder: to write the file and the definition into.
        definition: of the task, under the harness's own.
        rows: as the hub has them.
        changes: what else differs from the definition.
    """
    from lm_eval.tasks import TaskManager

    from multilora.evaluation.runner import quiet

    name = Path(definition).stem if "default.yaml" not in definition else Path(definition).parent.name
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "include": str(harness_folder() / definition),
        "task": f"stock_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"rows": str(file)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "rows",
        "fewshot_split": None,
        "num_fewshot": 0,
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    with quiet():
        (task,) = TaskManager(include_defaults=False).load([str(path)])["tasks"].values()
    return task


def stock_requests(task: Any) -> list[list[tuple[Any, ...]]]:
    """The arguments of each row's requests: (prompt, choice) each, or (prompt, how to generate)."""
    from multilora.evaluation.runner import quiet

    task.set_fewshot_seed(seed=0)
    with quiet():
        task.build_all_requests()
    by_row: dict[int, list[tuple[Any, ...]]] = {}
    for request in task.instances:
        by_row.setdefault(request.doc_id, []).append(request.args)
    return list(by_row.values())
