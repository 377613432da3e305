"""What is particular to each data set: how a row reads as prompt, completion, choices and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multilora import InputError
from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import CATEGORIES, SUBJECTS
from multilora.tasks.example import BadRow, Example
from multilora.tasks.numbers import final_number
from tasks.formats import JSON_LINES, auxiliary, made_up, write_csv, write_lines

INTRODUCTION = "The following are multiple choice questions (with answers)"
ALPACA = "Write a response that appropriately completes the request.\n\n### Instruction:\n"


@pytest.mark.parametrize(
    ("kind", "prompt", "completion"),
    [
        ("boolq", "About the number 0.\nQuestion: is 0 even?\nAnswer:", " yes"),
        ("cb", "0 cats.\nQuestion: Cats. True, False, or Neither?\nAnswer:", " True"),
        ("copa", "Street 0 was wet because", "  it rained."),
        ("gsm8k", "Question: Ann has 0 pens and buys 2.\nAnswer:", " 0 + 2 = <<0+2=2>>2\n#### 2"),
        ("multirc", "Story 0.\nQuestion: Who?\nAnswer: Ann\nIs the answer correct?", " no"),
        ("record", "Bob met Ann in 0.\n\n  - They met.\n", "   - Ann came second"),
        ("rte", "0 cats.\nQuestion: Cats True or False?\nAnswer:", " True"),
        (
            "wic",
            "Sentence 1: 0 banks.\nSentence 2: Banks.\nQuestion: Is the word 'banks' used in the same way in the two "
            "sentences above?\nAnswer:",
            " yes",
        ),
        (
            "wsc",
            'Passage: Ann ate 0 *she* said.\nQuestion: In the passage above, does the pronoun "*she*" refer to '
            '"*Ann*"?\nAnswer:',
            " yes",
        ),
        ("mmlu", f"{INTRODUCTION}.\n\nWhat is 0?\nA. one\nB. two\nC. three\nAnswer:", " A"),
    ],
)
def test_the_first_row_reads_so(kind: str, prompt: str, completion: str, tmp_path: Path) -> None:
    first = next(iter(made_up(kind, tmp_path).train_rows()))
    assert isinstance(first, Example)
    assert (first.prompt, first.completion) == (prompt, completion)


def examples(rows: object) -> list[Example]:
    assert isinstance(rows, list)
    return [row for row in rows if isinstance(row, Example)]


def test_alpaca_with_and_without_input(tmp_path: Path) -> None:
    without, given = examples(list(made_up("alpaca", tmp_path).train_rows()))[:2]
    assert without.prompt.endswith(f"describes a task. {ALPACA}Name 0 colours.\n\n### Response:\n")
    assert given.prompt.endswith(f"{ALPACA}Name 1 colours.\n\n### Input:\nlight ones\n\n### Response:\n")
    assert given.completion == "colours 1"


def test_alpacas_original_file_is_one_array(tmp_path: Path) -> None:
    lines = examples(list(made_up("alpaca", tmp_path / "lines").train_rows()))
    task = made_up("alpaca", tmp_path / "array")
    (tmp_path / "array" / "alpaca_data.jsonl").unlink()
    file = tmp_path / "array" / "alpaca_data.json"
    file.write_text(json.dumps([JSON_LINES["alpaca"](i) for i in range(5)]))
    array = examples(list(task.train_rows()))
    assert [(row.id, row.prompt, row.completion) for row in array] == [
        (row.id, row.prompt, row.completion) for row in lines
    ]
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"alpaca_data\.json' is not JSON: .*cut off"):
        list(task.train_rows())


def test_a_question_of_multirc_is_a_group_and_an_empty_answer_is_fine(tmp_path: Path) -> None:
    task = made_up("multirc", tmp_path)
    row = JSON_LINES["multirc"](0)
    row["passage"]["questions"][0]["answers"][0]["text"] = ""
    write_lines(tmp_path / "train.jsonl", [row, JSON_LINES["multirc"](1)])
    rows = examples(list(task.train_rows()))
    assert [row.group for row in rows] == ["train-0-0"] * 3 + ["train-1-0"] * 3
    assert [row.completion for row in rows[:3]] == [" no", " yes", " no"]


def test_record_offers_every_entity_once(tmp_path: Path) -> None:
    (first, *_) = examples(list(made_up("record", tmp_path).train_rows()))
    assert first.choices == ("   - Ann came second", "   - Bob came second")
    assert first.answers == ("   - Ann came second",)
    assert first.short == ("Ann", "Bob")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"passage": {"text": "Bob", "entities": [{"start": 0, "end": 3}]}}, "lies outside the passage"),
        ({"passage": {"text": "Bob", "entities": [{"start": 0, "end": 2}]}}, "answer 'Ann' is not one of"),
        ({"qas": [{"query": "none", "idx": 0, "answers": [{"text": "Ann"}]}]}, "no @placeholder"),
        ({"qas": []}, "'qas' is an empty list"),
        ({"qas": [1]}, "qas[0] is number where an object"),
        ({"qas": [{"query": "@placeholder", "idx": 0}]}, "no field 'qas[0].answers'"),
    ],
)
def test_a_row_of_record_that_makes_no_sense(change: dict[str, object], why: str, tmp_path: Path) -> None:
    task = made_up("record", tmp_path)
    write_lines(tmp_path / "train.jsonl", [JSON_LINES["record"](0) | change])
    (row,) = task.train_rows()
    assert isinstance(row, BadRow)
    assert why in row.why


@pytest.mark.parametrize(("index", "good"), [(2, True), (3, True), (4, True), (5, False), (99, False), (-1, False)])
def test_wscs_index_may_be_off_by_one_and_no_more(index: int, good: bool, tmp_path: Path) -> None:
    task = made_up("wsc", tmp_path)
    row = JSON_LINES["wsc"](0)
    row["target"]["span2_index"] = index
    write_lines(tmp_path / "train.jsonl", [row])
    (read,) = task.train_rows()
    assert isinstance(read, Example) == good
    if isinstance(read, Example):
        assert "ate 0 *she* said" in read.prompt


def test_wscs_noun_is_spelled_as_in_the_text_and_spaces_before_punctuation_go(tmp_path: Path) -> None:
    task = made_up("wsc", tmp_path)
    row = JSON_LINES["wsc"](0)
    row["text"] = 'Now ( ann ) ca n\'t eat , and she said " no " .'
    row["target"] = {"span1_index": 2, "span1_text": "Ann.", "span2_index": 8, "span2_text": "she"}
    write_lines(tmp_path / "train.jsonl", [row])
    (read,) = examples(list(task.train_rows()))
    assert read.prompt.startswith('Passage: Now (ann) can\'t eat, and *she* said"no".\n')
    assert 'refer to "*ann*"?' in read.prompt


@pytest.mark.parametrize("end", ["2", "#### two", "#### 2 or 3", "####"])
def test_an_answer_of_gsm8k_without_its_number_is_a_bad_row(end: str, tmp_path: Path) -> None:
    task = made_up("gsm8k", tmp_path)
    write_lines(tmp_path / "train.jsonl", [{"question": "q", "answer": f"so\n{end}"}])
    (row,) = task.train_rows()
    assert isinstance(row, BadRow)
    assert "does not end in `#### N`" in row.why


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 + 1 = 2\n#### 2", "2"),
        ("#### 1,234", "1234"),
        ("#### -3", "-3"),
        ("#### $5.00\n", "5"),
        ("#### 2.50 dollars, not 7", "2.5"),
        ("so she has 3 and then 4.", "4"),
        ("#### 4\nQuestion: 9?", "4"),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_an_answer_ends_in(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_the_answers_of_gsm8k_are_their_own_final_numbers(tmp_path: Path) -> None:
    for row in examples(list(made_up("gsm8k", tmp_path).train_rows())):
        assert (final_number(row.completion),) == row.answers


def test_mmlu_has_57_subjects_in_four_categories(tmp_path: Path) -> None:
    assert len(SUBJECTS) == len(set(SUBJECTS)) == 57
    assert set(CATEGORIES.values()) == {"STEM", "humanities", "social sciences", "other"}
    rows = examples(list(made_up("mmlu", tmp_path).eval_rows("test")))
    assert {row.group for row in rows} == set(SUBJECTS)
    subject = SUBJECTS[0]
    assert rows[0].prompt == (
        f'{INTRODUCTION} about {subject.replace("_", " ")}.\n\ntest 0 of {subject}?\nA. a, x\nB. b "y"\nC. c\nD. d\n'
        "Answer:"
    )
    assert (rows[1].completion, rows[1].choices) == (" B", (" A", " B", " C", " D"))


def test_shots_come_from_the_subjects_dev_rows(tmp_path: Path) -> None:
    made_up("mmlu", tmp_path)
    (first, *_) = examples(list(MMLU("t", tmp_path, shots=2).eval_rows("test")))
    blocks = first.prompt.split("\n\n")
    assert [block.partition("?")[0] for block in blocks[1:]] == [
        f"{row} of {SUBJECTS[0]}" for row in ("dev 0", "dev 1", "test 0")
    ]
    assert [block.rpartition("Answer:")[2] for block in blocks[1:]] == [" A", " B", ""]
    with pytest.raises(InputError, match="has 5 rows, fewer than shots = 6"):
        list(MMLU("t", tmp_path, shots=6).eval_rows("test"))


def test_mmlus_missing_subjects_are_all_named(tmp_path: Path) -> None:
    task = made_up("mmlu", tmp_path)
    for subject in SUBJECTS[:2]:
        (tmp_path / "test" / f"{subject}_test.csv").unlink()
    task.check()
    with pytest.raises(InputError) as error:
        task.check("test")
    assert str(error.value).count("cannot read") == 2
    assert SUBJECTS[1] in str(error.value)


def test_faults_in_mmlus_files(tmp_path: Path) -> None:
    task = made_up("mmlu", tmp_path)
    file = tmp_path / "test" / f"{SUBJECTS[0]}_test.csv"
    write_csv(file, [["q", "a", "b", "c", "D"], ["q", "a", "b", "c", "d", "E"], ["q", "a", "b", " ", "d", "A"]])
    faults = [row.why for row in task.eval_rows("test") if isinstance(row, BadRow)]
    assert faults == [
        "5 columns where 6 are needed",
        'unknown label "E" in field \'answer\'; the labels are "A", "B", "C", "D"',
        "field 'C' is blank",
    ]
    file.write_text('q,a,b,c,"d')
    with pytest.raises(InputError, match=r"is not CSV: unexpected end of data; is it cut off\?"):
        list(task.eval_rows("test"))


def test_faults_in_mmlus_auxiliary_sources(tmp_path: Path) -> None:
    task = made_up("mmlu", tmp_path)
    file = tmp_path / "auxiliary_train" / "arc.json"
    rows = [auxiliary(0) | {"answer": "answer4"}, auxiliary(1) | {"instruction": "What?"}, {"answer": "answer1"}, 1]
    file.write_text(json.dumps(rows))
    faults = [row.why for row in task.train_rows() if isinstance(row, BadRow)]
    for fault, part in zip(
        faults, ('unknown label "answer4"', "is not a question", "no field 'instruction'", "not an object"), strict=True
    ):
        assert part in fault
    for text, part in (('[{"a": 1', "is not JSON"), ('{"a": 1}', "is a JSON object where a list"), ("[]", "no row in")):
        file.write_text(text)
        with pytest.raises(InputError, match=part):
            list(task.train_rows())
