"""Made-up rows of every built-in task in the data set's own format, and its folder on disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.folder import FolderSection, FolderTask
from multilora.tasks.registry import built_in

Row = dict[str, Any]

# The class of each built-in data set by its name.
DATA_SETS: Mapping[str, type[FolderTask]] = {
    name: section.data_set for name, section in built_in().items() if issubclass(section, FolderSection)
}


def _gsm8k(i: int) -> Row:
    return {"question": f"Ann has {i} pens and buys 2.", "answer": f"{i} + 2 = <<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}"}


def _alpaca(i: int) -> Row:
    return {"instruction": f"Name {i} colours.", "input": "light ones" if i % 2 else "", "output": f"colours {i}"}


def _boolq(i: int) -> Row:
    return {"question": f"is {i} even", "passage": f"About the number {i}.", "label": i % 2 == 0, "idx": i}


def _entailment(labels: Sequence[str]) -> Callable[[int], Row]:
    def row(i: int) -> Row:
        return {"premise": f"{i} cats.", "hypothesis": "Cats", "label": labels[i % len(labels)], "idx": i}

    return row


def _copa(i: int) -> Row:
    question = "effect" if i % 2 else "cause"
    choices = {"choice1": "It rained.", "choice2": "The sun shone."}
    return {"premise": f"Street {i} was wet.", **choices, "question": question, "label": i % 2, "idx": i}


def _multirc(i: int) -> Row:
    answers = [{"text": text, "idx": n, "label": n % 2} for n, text in enumerate(["Ann", "Bob", "Cid"])]
    return {
        "idx": i,
        "version": 1.1,
        "passage": {"text": f"Story {i}.", "questions": [{"question": "Who?", "answers": answers, "idx": 0}]},
    }


def _record(i: int) -> Row:
    text = f"Bob met Ann in {i}.\n@highlight\nThey met"
    entities = [{"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 0, "end": 2}]
    qas = [{"query": "@placeholder came second", "idx": 0, "answers": [{"start": 8, "end": 10, "text": "Ann"}]}]
    return {"source": "made up", "passage": {"text": text, "entities": entities}, "qas": qas, "idx": i}


def _wic(i: int) -> Row:
    first = f"{i} banks."
    places = {"start1": 2, "end1": 7, "start2": 0, "end2": 5}
    return {"word": "bank", "sentence1": first, "sentence2": "Banks.", "idx": i, "label": i % 2 == 0, **places}


def _wsc(i: int) -> Row:
    target = {"span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"}
    return {"text": f"Ann ate {i} she said.", "target": target, "idx": i, "label": i % 2 == 0}


def auxiliary(i: int) -> Row:
    """A row of MMLU's auxiliary sources."""
    text = f"What is {i}?\n\nAnswer1: one Answer2: two Answer3: three\n\nAnswer format: answer1/answer2/answer3"
    instruction = f"Please choose the correct answer to the question: {text}"
    return {"instruction": instruction, "input": "", "output": "", "answer": f"answer{i % 3 + 1}"}


JSON_LINES: Mapping[str, Callable[[int], Row]] = {
    "alpaca": _alpaca,
    "boolq": _boolq,
    "cb": _entailment(["entailment", "contradiction", "neutral"]),
    "copa": _copa,
    "gsm8k": _gsm8k,
    "multirc": _multirc,
    "record": _record,
    "rte": _entailment(["entailment", "not_entailment"]),
    "wic": _wic,
    "wsc": _wsc,
}
TRAIN = {"alpaca": "alpaca_data.jsonl"}
TEST = {"gsm8k": "test.jsonl"}


def write_lines(path: Path, rows: Sequence[Row | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())


def write_mmlu(folder: Path) -> None:
    """Two test rows and five dev rows per subject; five auxiliary rows."""
    for subject in SUBJECTS:
        for split, count in (("dev", 5), ("test", 2)):
            rows = [[f"{split} {i} of {subject}?", "a, x", 'b "y"', "c", "d", "ABCD"[i % 4]] for i in range(count)]
            write_csv(folder / split / f"{subject}_{split}.csv", rows)
    sources = folder / "auxiliary_train"
    sources.mkdir()
    (sources / "arc.json").write_text(json.dumps([auxiliary(i) for i in range(5)]))


def made_up(kind: str, folder: Path, share: float = 0.0) -> FolderTask:
    """The task on made-up data: five training rows and, numbered on from them, two to evaluate on."""
    if kind == "mmlu":
        write_mmlu(folder)
        return MMLU("t", folder, validation_share=share)
    row = JSON_LINES[kind]
    write_lines(folder / TRAIN.get(kind, "train.jsonl"), [row(i) for i in range(5)])
    if kind != "alpaca":
        write_lines(folder / TEST.get(kind, "val.jsonl"), [row(i) for i in range(5, 7)])
    return DATA_SETS[kind]("t", folder, validation_share=share)
