"""Our prompts and likelihoods are those of the harness's own definitions, on real rows (0-shot).

The rows reach the harness in the hub's columns. MultiRC's boundary between prompt and choice is another one, with equal
text: in the harness the answer that is judged is part of the choice.
"""

from __future__ import annotations

import csv
import importlib
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.in_memory import GivenTask, harness_folder, stock_requests, stock_task
from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import Example
from multilora.tasks.folder import FolderTask
from tasks.formats import DATA_SETS, JSON_LINES, write_lines

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")

from multilora.evaluation.harness import evaluate_tasks
from multilora.evaluation.runner import Runner
from multilora.evaluation.stock import StockTasks

Row = dict[str, Any]
SUPERGLUE = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
LABELS: Mapping[str, Sequence[Any]] = {
    "boolq": (False, True),
    "cb": ("entailment", "contradiction", "neutral"),
    "copa": (0, 1),
    "rte": ("entailment", "not_entailment"),
    "wic": (False, True),
    "wsc": (False, True),
}
ROWS = 24
LONGEST = 420  # characters: rows that fit into the model's context, and into the test's time


@pytest.fixture(scope="module")
def model(data_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(data_dir / "models" / "stories260K")


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(data_dir / "models" / "stories260K")


def lines(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def examples(task: FolderTask) -> list[Example]:
    rows = list(task.eval_rows("test"))
    assert all(isinstance(row, Example) for row in rows)
    return [row for row in rows if isinstance(row, Example)]


def as_on_the_hub(kind: str, row: Row) -> Row:
    """A row of the original files in the columns of `aps/super_glue`."""
    label = LABELS[kind].index(row["label"])
    if kind == "wsc":
        return wsc_fixed({"text": row["text"], **row["target"], "label": label})
    return row | {"label": label}


def wsc_fixed(row: Row) -> Row:
    """What the hub's `wsc.fixed` does to spans that do not stand in the text."""
    for span in ("span1", "span2"):
        text: str = row[f"{span}_text"]
        if text not in row["text"]:
            first = row["text"].split()[row[f"{span}_index"]][0]
            text = (text[0].lower() if first.islower() else text[0].upper()) + text[1:]
            row[f"{span}_text"] = text.rstrip(".").replace("\n", " ")
    return row


def spread(rows: Sequence[Example], count: int = ROWS) -> list[int]:
    """Numbers of rows that are not long, from all over the file."""
    short = [number for number, row in enumerate(rows) if len(row.prompt) <= LONGEST]
    assert len(short) >= count
    return [short[number * len(short) // count] for number in range(count)]


def pairs(rows: Sequence[Example]) -> list[list[tuple[str, str]]]:
    return [[(row.prompt, choice) for choice in row.choices] for row in rows]


def same_scores(model: Any, tokenizer: Any, rows: Sequence[Example], stock: Any) -> None:
    """Equal likelihoods of every choice of every row, and the same accuracy."""
    name = stock.task_name
    evaluation = evaluate_tasks(
        model, tokenizer, [GivenTask("ours", rows)], on_long_prompt="fail", harness_tasks=StockTasks({name: stock})
    )
    ours, theirs = evaluation.tasks["ours"], evaluation.tasks[name]
    assert len(ours.predictions) == len(theirs.predictions) == len(rows)
    for mine, other in zip(ours.predictions, theirs.predictions, strict=True):
        assert mine.log_likelihoods == pytest.approx([value for value, _ in other.responses], abs=1e-4, rel=0)
    mine, other = ours.metrics["accuracy"], theirs.metrics["acc"]
    assert (mine.value, mine.standard_error, mine.count) == (other.value, other.standard_error, other.count)


@pytest.mark.parametrize("kind", ["boolq", "rte", "wic", "copa", "cb", "wsc"])
def test_prompts_and_likelihoods(kind: str, data_dir: Path, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    folder = data_dir / "data" / "superglue" / SUPERGLUE[kind]
    ours = examples(DATA_SETS[kind](kind, folder))
    numbers = spread(ours)
    if kind == "wsc":
        numbers = [number for number in numbers if number != MARKED_WRONGLY]
    originals = lines(folder / "val.jsonl")
    rows = [ours[number] for number in numbers]
    stock = stock_task(
        tmp_path, f"super_glue/{kind}/default.yaml", [as_on_the_hub(kind, originals[number]) for number in numbers]
    )
    assert pairs(rows) == stock_requests(stock)
    same_scores(model, tokenizer, rows, stock)


# In this one row the harness marks a part of a word: "to *it*e it" where the text has "to use it".
MARKED_WRONGLY = 42


@pytest.mark.parametrize("kind", ["boolq", "rte", "wic", "copa", "cb", "wsc"])
def test_prompts_of_all_rows(kind: str, data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "data" / "superglue" / SUPERGLUE[kind]
    ours = pairs(examples(DATA_SETS[kind](kind, folder)))
    originals = [as_on_the_hub(kind, row) for row in lines(folder / "val.jsonl")]
    theirs = stock_requests(stock_task(tmp_path, f"super_glue/{kind}/default.yaml", originals))
    differing = [number for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
    assert differing == ([MARKED_WRONGLY] if kind == "wsc" else [])


def multirc_rows(original: Row) -> list[Row]:
    return [
        {
            "paragraph": original["passage"]["text"],
            "question": question["question"],
            "answer": answer["text"],
            "label": answer["label"],
        }
        for question in original["passage"]["questions"]
        for answer in question["answers"]
    ]


def test_multirc_has_the_same_text_with_another_boundary(
    data_dir: Path, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """The harness's choices are "yes" and "no" with labels of "no" and "yes": its accuracy is of the wrong answers."""
    folder = data_dir / "data" / "superglue" / "MultiRC"
    ours = examples(DATA_SETS["multirc"]("multirc", folder))
    originals = [row for original in lines(folder / "val.jsonl") for row in multirc_rows(original)]
    assert len(ours) == len(originals)
    shortest = sorted(range(len(ours)), key=lambda number: len(ours[number].prompt))[:ROWS]
    rows = [ours[number] for number in shortest]
    stock = stock_task(tmp_path, "super_glue/multirc/default.yaml", [originals[number] for number in shortest])
    theirs = stock_requests(stock)
    assert [[prompt + choice for prompt, choice in reversed(row)] for row in pairs(rows)] == [
        [prompt + choice for prompt, choice in row] for row in theirs
    ]
    evaluation = evaluate_tasks(
        model, tokenizer, [GivenTask("ours", rows)], harness_tasks=StockTasks({"stock_multirc": stock})
    )
    mine, other = evaluation.tasks["ours"], evaluation.tasks["stock_multirc"]
    assert mine.long_prompts == other.long_prompts
    assert mine.predictions
    for one, theirs_of_it in zip(mine.predictions, other.predictions, strict=True):
        no, yes = one.log_likelihoods
        (other_yes, _), (other_no, _) = theirs_of_it.responses
        assert yes - no == pytest.approx(other_yes - other_no, abs=1e-3)
    accuracy = mine.metrics["accuracy"].value
    assert accuracy is not None
    assert other.metrics["acc"].value == pytest.approx(1 - accuracy)


@pytest.fixture
def _squad_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's definition of ReCoRD imports a module that transformers 5 has not; only its prompts are used."""
    for name in ("transformers.data.metrics", "transformers.data.metrics.squad_metrics"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(parent), child, module, raising=False)


@pytest.mark.usefixtures("_squad_metrics")
def test_record_on_made_up_rows(tmp_path: Path) -> None:
    originals = [JSON_LINES["record"](number) for number in range(4)]
    write_lines(tmp_path / "val.jsonl", originals)
    ours = examples(DATA_SETS["record"]("record", tmp_path))
    hub: list[Row] = []
    for original in originals:
        text = original["passage"]["text"]
        spans = [(entity["start"], entity["end"] + 1) for entity in original["passage"]["entities"]]
        for query in original["qas"]:
            entities = [text[start:end] for start, end in spans]
            answers = [answer["text"] for answer in query["answers"]]
            hub.append({"passage": text, "query": query["query"], "entities": entities, "answers": answers})
    theirs = stock_requests(stock_task(tmp_path, "super_glue/record/default.yaml", hub))
    assert [sorted(row) for row in pairs(ours)] == theirs  # the harness sorts the entities


# MMLU and GSM8K ---------------------------------------------------------------------------------------------------


def mmlu_rows(folder: Path, split: str, subject: str) -> list[Row]:
    """In the columns of `cais/mmlu`."""
    with (folder / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
        return [
            {"question": question, "subject": subject, "choices": options, "answer": "ABCD".index(letter)}
            for question, *options, letter in csv.reader(file)
        ]


@pytest.mark.parametrize("subject", ["anatomy", "high_school_us_history", "us_foreign_policy", "abstract_algebra"])
def test_mmlu(subject: str, data_dir: Path, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    folder = data_dir / "data" / "mmlu"
    ours = [row for row in examples(MMLU("mmlu", folder)) if row.group == subject]
    originals = mmlu_rows(folder, "test", subject)
    stock = stock_task(tmp_path, f"mmlu/default/mmlu_{subject}.yaml", originals)
    assert pairs(ours) == stock_requests(stock)
    if subject == "high_school_us_history":  # none of its rows fits into this model's context
        return
    numbers = spread(ours, 8)
    stock = stock_task(tmp_path, f"mmlu/default/mmlu_{subject}.yaml", [originals[number] for number in numbers])
    same_scores(model, tokenizer, [ours[number] for number in numbers], stock)


def test_mmlus_introduction_of_every_subject(data_dir: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml
    from lm_eval.utils import apply_template

    folder = data_dir / "data" / "mmlu"
    first = {row.group: row for row in reversed(examples(MMLU("mmlu", folder)))}
    for subject in SUBJECTS:
        stock = load_yaml(harness_folder() / f"mmlu/default/mmlu_{subject}.yaml")
        row = mmlu_rows(folder, "test", subject)[0]
        assert first[subject].prompt == stock["description"] + apply_template(stock["doc_to_text"], row)


def test_mmlu_with_shots(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "data" / "mmlu"
    ours = [row for row in examples(MMLU("mmlu", folder, shots=5)) if row.group == "anatomy"]
    shown = mmlu_rows(folder, "dev", "anatomy")
    stock = stock_task(
        tmp_path,
        "mmlu/default/mmlu_anatomy.yaml",
        mmlu_rows(folder, "test", "anatomy"),
        num_fewshot=5,
        fewshot_config={"sampler": "first_n", "samples": shown},
    )
    assert pairs(ours) == stock_requests(stock)


def test_gsm8k(data_dir: Path, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = data_dir / "data" / "gsm8k"
    ours = examples(DATA_SETS["gsm8k"]("gsm8k", folder))
    numbers = spread(ours)
    originals = lines(folder / "test.jsonl")
    rows = [ours[number] for number in numbers]
    kwargs = load_yaml(harness_folder() / "gsm8k/gsm8k.yaml")["generation_kwargs"] | {"max_gen_toks": 24}
    stock = stock_task(
        tmp_path, "gsm8k/gsm8k.yaml", [originals[number] for number in numbers], generation_kwargs=kwargs
    )
    assert [row.prompt for row in rows] == [prompt for ((prompt, _),) in stock_requests(stock)]
    evaluation = evaluate_tasks(
        model,
        tokenizer,
        [GivenTask("ours", rows, DATA_SETS["gsm8k"].scoring_kind)],
        max_new_tokens=24,
        harness_tasks=StockTasks({"stock_gsm8k": stock}),
    )
    theirs = [record for record in evaluation.tasks["stock_gsm8k"].predictions if record.filter == "strict-match"]
    texts = _generated(stock)
    assert [record.generated for record in evaluation.tasks["ours"].predictions] == texts
    assert any(texts)
    assert len(theirs) == len(rows)

    lm = Runner(model, tokenizer, 8, 512).lm
    likelihood: Callable[[str, str], Any] = lambda prompt, text: lm.loglikelihood(  # noqa: E731
        [Instance("loglikelihood", {}, (prompt, text), 0)], disable_tqdm=True
    )
    for row, document in zip(rows[:6], stock.test_docs(), strict=False):
        target = stock.config.target_delimiter + stock.doc_to_target(document)
        assert row.completion == target
        assert likelihood(row.prompt, row.completion) == likelihood(stock.doc_to_text(document), target)


def _generated(task: Any) -> list[str]:
    """What the model said, before the harness's filters."""
    return [request.resps[0] for request in task.instances]
