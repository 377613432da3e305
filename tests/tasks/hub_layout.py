"""The data sets' rows as the Hub has them, written as parquet files in its layout.

What the Hub's conversion made of the original files, by its published code: classes for labels, one row per answer of
MultiRC and per query of ReCoRD, spans of WSC in columns of their own and spelled as in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from tasks.formats import DATA_SETS, JSON_LINES

Row = dict[str, Any]
TEXT, NUMBER = Value("string"), Value("int32")
BOOLS = ["False", "True"]
CLASSES: Mapping[str, list[str]] = {
    "boolq": BOOLS,
    "cb": ["entailment", "contradiction", "neutral"],
    "copa": ["choice1", "choice2"],
    "multirc": BOOLS,
    "rte": ["entailment", "not_entailment"],
    "wic": BOOLS,
    "wsc": BOOLS,
}
MMLU_COLUMNS = Features(
    {"question": TEXT, "subject": TEXT, "choices": List(TEXT), "answer": ClassLabel(names=["A", "B", "C", "D"])}
)


def as_on_hub(kind: str, row: Row) -> list[Row]:
    """The Hub's rows of one row of the original files."""
    if kind == "multirc":
        passage = row["passage"]
        return [
            {
                "paragraph": passage["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                "label": answer["label"],
            }
            for question in passage["questions"]
            for answer in question["answers"]
        ]
    if kind == "record":
        text, spans = row["passage"]["text"], row["passage"]["entities"]
        names = [text[span["start"] : span["end"] + 1] for span in spans]
        return [
            {
                "passage": text,
                "query": query["query"],
                "entities": sorted(set(names), reverse=True),  # of a set: in any order
                "answers": sorted({answer["text"] for answer in query["answers"]}, reverse=True),
                "idx": {"passage": row["idx"], "query": query["idx"]},
            }
            for query in row["qas"]
        ]
    row = dict(row)
    if kind == "wsc":
        row |= row.pop("target")
        for span in ("span1", "span2"):
            row[f"{span}_text"] = _corrected(row[f"{span}_text"], row["text"], row[f"{span}_index"])
    if kind == "alpaca":
        row["text"] = "all of it"
    if isinstance(row.get("label"), str):
        row["label"] = CLASSES[kind].index(row["label"])
    return [{**row, "label": int(row["label"])} if "label" in row else row]


def _corrected(span: str, text: str, index: int) -> str:
    """What `wsc.fixed` makes of a span that is not in the text."""
    if span in text:
        return span
    first = span[0].lower() if text.split()[index][0].islower() else span[0].upper()
    span = f"{first}{span[1:]}".rstrip(".").replace("\n", " ")
    assert span in text
    return span


def features(kind: str, row: Row) -> Features:
    kinds: dict[str, Any] = {}
    for name, value in row.items():
        if name == "label":
            kinds[name] = ClassLabel(names=CLASSES[kind])
        elif isinstance(value, dict):
            kinds[name] = dict.fromkeys(value, NUMBER)
        elif isinstance(value, list):
            kinds[name] = List(TEXT)
        else:
            kinds[name] = Value("float32") if isinstance(value, float) else NUMBER if isinstance(value, int) else TEXT
    return Features(kinds)


def write_split(folder: Path, split: str, rows: Iterable[Row], kinds: Features | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    Dataset.from_list(list(rows), features=kinds).to_parquet(file)
    return file


def write_hub(kind: str, folder: Path, rows: Mapping[str, list[Row]]) -> Path:
    """The original rows of the parts train and test, in the Hub's layout; the folder."""
    where = DATA_SETS[kind].on_hub
    for part, originals in rows.items():
        converted = [row for original in originals for row in as_on_hub(kind, original)]
        write_split(folder / (where.config or "data"), where.splits[part], converted, features(kind, converted[0]))
    return folder


def made_up_rows(kind: str) -> dict[str, list[Row]]:
    """Those of `formats.made_up`."""
    row = JSON_LINES[kind]
    rows = {"train": [row(i) for i in range(5)], "test": [row(i) for i in range(5, 7)]}
    return rows if "test" in DATA_SETS[kind].on_hub.splits else {"train": rows["train"]}


def write_mmlu_hub(folder: Path) -> Path:
    """`formats.write_mmlu` in the Hub's layout, all subjects in one file, with val rows too."""
    for split, count in (("dev", 5), ("test", 2), ("validation", 3)):
        rows = [
            {
                "question": f"{split} {i} of {subject}?",
                "subject": subject,
                "choices": ["a, x", 'b "y"', "c", "d"],
                "answer": i % 4,
            }
            for subject in SUBJECTS
            for i in range(count)
        ]
        write_split(folder / "all", split, rows, MMLU_COLUMNS)
    rows = [{"question": f"what is {i}?", "subject": "", "choices": list("wxyz"), "answer": i % 4} for i in range(5)]
    write_split(folder / "all", "auxiliary_train", rows, MMLU_COLUMNS)
    return folder
