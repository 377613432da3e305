"""Real rows in the Hub's columns give the same examples as the data sets' own files, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest

from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import BadRow, Example
from multilora.tasks.registry import built_in
from tasks.formats import DATA_SETS
from tasks.hub_layout import MMLU_COLUMNS, write_hub, write_split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def on_hub(kind: str, folder: Path, **options: Any) -> Any:
    return built_in()[kind].model_validate({"task": kind, "hub": str(folder), **options}).build("t")


def same(one: Iterable[Example | BadRow], other: Iterable[Example | BadRow], by_id: bool = False) -> int:
    """How many rows there are, of which each is equal but for its place; `by_id`: whatever their order."""

    def seen(rows: Iterable[Example | BadRow]) -> list[tuple[Any, ...]]:
        found = [
            (row.why,)
            if isinstance(row, BadRow)
            else (row.id, row.prompt, row.completion, row.choices, row.answers, row.group, row.key, row.short)
            for row in rows
        ]
        return sorted(found) if by_id else found

    first, second = seen(one), seen(other)
    assert len(first) == len(second)
    for row, twin in zip(first, second, strict=True):
        assert row == twin
    return len(first)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("alpaca", "alpaca"),
        ("boolq", "superglue/BoolQ"),
        ("cb", "superglue/CB"),
        ("copa", "superglue/COPA"),
        ("gsm8k", "gsm8k"),
        ("multirc", "superglue/MultiRC"),
        ("rte", "superglue/RTE"),
        ("wic", "superglue/WiC"),
        ("wsc", "superglue/WSC"),
    ],
)
def test_every_row_is_the_same_example_from_either_source(
    kind: str, folder: str, data_dir: Path, tmp_path: Path
) -> None:
    place = data_dir / "data" / folder
    if not place.is_dir():
        pytest.skip(f"needs real data: {place} is missing")
    own = DATA_SETS[kind]("t", place, validation_share=0.1)
    rows = {
        part: [
            json.loads(line)
            for file in own.own_files(part)
            for line in file.read_text(encoding="utf-8").split("\n")
            if line
        ]
        for part in ("train", "test")
    }
    kept = {part: _columns_of_the_hub(kind, found) for part, found in rows.items() if found}
    hub = on_hub(kind, write_hub(kind, tmp_path / "hub", kept), validation_share=0.1)
    assert same(own.train_rows(), hub.train_rows()) > 100
    assert same(own.eval_rows("validation"), hub.eval_rows("validation")) > 10
    if "test" in kept:
        assert same(own.eval_rows("test"), hub.eval_rows("test")) > 50


def _columns_of_the_hub(kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what the local files add, such as the subsets that a row of Alpaca is in."""
    if kind != "alpaca":
        return rows
    return [{name: row[name] for name in ("instruction", "input", "output")} for row in rows]


def test_every_row_of_mmlu_is_the_same_example_from_either_source(data_dir: Path, tmp_path: Path) -> None:
    place = data_dir / "data" / "mmlu"
    if not place.is_dir():
        pytest.skip(f"needs real data: {place} is missing")
    for split, on_disk in (("dev", "dev"), ("validation", "val"), ("test", "test")):
        rows = [
            {"question": question, "subject": subject, "choices": options, "answer": letter}
            for subject in reversed(SUBJECTS)  # whatever the order of the subjects
            for question, *options, letter in _csv(place / on_disk / f"{subject}_{on_disk}.csv")
        ]
        write_split(tmp_path / "all", split, rows, MMLU_COLUMNS)
    for shots in (0, 5):
        own, hub = MMLU("t", place, shots=shots), on_hub("mmlu", tmp_path, shots=shots)
        assert same(own.eval_rows("validation"), hub.eval_rows("validation"), by_id=True) == 1_531
    assert same(own.eval_rows("test"), hub.eval_rows("test"), by_id=True) == 14_042
    assert same(own.shown_rows(), hub.shown_rows(), by_id=True) == 285


def test_auxiliary_rows_of_mmlu_read_alike_from_either_source(data_dir: Path, tmp_path: Path) -> None:
    place = data_dir / "data" / "mmlu_auxiliary"
    if not place.is_dir():
        pytest.skip(f"needs real data: {place} is missing")
    own = [row for row in MMLU("t", tmp_path, auxiliary=place).train_rows() if isinstance(row, Example)]
    own = [row for row in own if len(row.choices) == 4]  # as all rows of the Hub
    rows: list[dict[str, Any]] = []
    for row in own:
        question, *options, _ = row.prompt.partition("\n\n")[2].rsplit("\n", 5)
        options = [option[3:] for option in options]  # after "A. "
        rows.append({"question": question, "subject": "", "choices": options, "answer": row.completion.strip()})
    write_split(tmp_path / "all", "auxiliary_train", rows, MMLU_COLUMNS)
    hub = [row for row in on_hub("mmlu", tmp_path).train_rows() if isinstance(row, Example)]
    assert len(own) > 8_000

    def seen(row: Example) -> tuple[Any, ...]:
        return (row.prompt, row.completion, row.choices, row.answers, row.group, row.key)

    assert [seen(row) for row in own] == [seen(row) for row in hub]


def _csv(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))
