"""Scores: the metrics against scikit-learn and the harness's own, and what errors and intervals must obey."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora.evaluation.results import STATISTICS, Answer, Score, normalised_answer, score, word_f1
from multilora.evaluation.saved import AnswerLine
from multilora.tasks.example import Example

f1_score = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, which lm-eval brings").f1_score
lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")


def stock_module(path: str) -> ModuleType:
    """A Python file of the harness's own tasks."""
    file = Path(lm_eval.__file__).parent / "tasks" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chosen(predicted: str, right: str, choices: tuple[str, ...] = (" no", " yes"), group: str = "") -> Answer:
    """An answer by likelihood."""
    example = Example("p", right, "s", choices=choices, answers=(right,), group=group)
    return Answer(example, tuple(-1.0 if choice == predicted else -2.0 for choice in choices))


def generated(text: str, right: str) -> Answer:
    return Answer(Example("p", f" {right}", "s", answers=(right,)), generated=text)


def drawn(count: int, choices: tuple[str, ...], per_group: int = 1, seed: int = 0) -> list[Answer]:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(choices), size=(count, 2))
    return [chosen(choices[a], choices[b], choices, str(i // per_group)) for i, (a, b) in enumerate(pairs)]


LABELS = (" True", " False", " Neither")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_macro_f1_is_scikit_learns_over_all_labels(pairs: list[tuple[int, int]]) -> None:
    answers = [chosen(LABELS[said], LABELS[right], LABELS) for said, right in pairs]
    said, right = zip(*pairs, strict=True)
    expected = f1_score(right, said, labels=[0, 1, 2], average="macro", zero_division=0)
    assert score("macro_f1", answers).value == pytest.approx(expected)


def test_macro_f1_is_the_harness_own_for_cb() -> None:
    answers = drawn(40, LABELS)
    pairs = [(a.example.choices.index(a.example.answers[0]), a.chosen) for a in answers]
    assert score("macro_f1", answers).value == pytest.approx(
        stock_module("super_glue/cb/aggregate.py").cb_multi_fi(pairs)
    )


def test_scores_of_questions_are_the_harness_own_for_multirc() -> None:
    stock = stock_module("super_glue/multirc/t5_utils.py")
    answers = drawn(60, (" no", " yes"), per_group=3)
    pairs = [(a.chosen, int(" yes" in a.example.answers)) for a in answers]
    grouped = [(a.example.group, *pair) for a, pair in zip(answers, pairs, strict=True)]
    f1, exact = score("f1_over_answers", answers), score("exact_match_of_questions", answers)
    assert f1.value == pytest.approx(stock.agg_f1(pairs))
    assert exact.value == pytest.approx(stock.agg_em(grouped))
    assert f1.count == exact.count == 20


ENTITIES = ("The U.S.", "US", "Barack Obama", "Obama", "the New York Times", "York")


@given(st.lists(st.tuples(st.sampled_from(ENTITIES), st.sets(st.sampled_from(ENTITIES), min_size=1)), min_size=1))
def test_words_in_common_are_the_harness_own_for_record(rows: list[tuple[str, set[str]]]) -> None:
    stock = stock_module("super_glue/record/t5_utils.py")
    choices = tuple(f"- {name} came" for name in ENTITIES)
    answers: list[Answer] = []
    f1: list[float] = []
    exact: list[float] = []
    for said, golds in rows:
        right = tuple(choices[ENTITIES.index(gold)] for gold in golds)
        example = Example("p", right[0], "s", choices=choices, answers=right, short=ENTITIES)
        answers.append(Answer(example, tuple(-1.0 if name == said else -2.0 for name in ENTITIES)))
        items = [(said, f"0_{gold}") for gold in golds]
        f1.append(stock.squad_f1_agg(items))
        exact.append(stock.squad_em_agg(items))
    assert score("f1", answers).value == pytest.approx(np.mean(f1))
    assert score("exact_match", answers).value == pytest.approx(np.mean(exact))


def test_answers_of_articles_alone_are_equal_or_not() -> None:
    assert (word_f1("a", "The"), word_f1("a", "The cat")) == (1.0, 0.0)


def test_words_without_short_forms_are_those_of_the_choices() -> None:
    answer = chosen("a red cat", "the blue cat", ("a red cat", "the blue cat"))
    assert score("f1", [answer]).value == word_f1("a red cat", "the blue cat") == pytest.approx(0.5)
    assert normalised_answer("  The  U.S.A., an ally! ") == "usa ally"


def test_accuracy_by_hand() -> None:
    answers = [chosen(" yes", " yes"), chosen(" no", " yes"), chosen(" no", " no"), chosen(" no", " no")]
    found = score("accuracy", answers)
    assert found.value == 0.75
    assert found.count == 4
    assert found.standard_error == pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2)


def test_any_of_several_right_choices_is_right() -> None:
    example = Example("p", "a", "s", choices=("a", "b", "c"), answers=("a", "c"))
    assert Answer(example, (-3.0, -2.0, -1.0)).right
    assert not Answer(example, (-3.0, -1.0, -2.0)).right
    assert Answer(example, (-1.0, -1.0, -1.0)).predicted == "a"  # of equal ones the first


def test_a_final_number_must_be_equal() -> None:
    answers = [generated("so #### 1,200", "1200"), generated("5 or 6", "5"), generated("none", "7")]
    assert [answer.predicted for answer in answers] == ["1200", "6", None]
    assert score("exact_match", answers).value == pytest.approx(1 / 3)


def test_a_record_says_enough_for_every_metric() -> None:
    entities = tuple(f"- {name} came" for name in ENTITIES)
    record = Example("p", entities[1], "s", choices=entities, answers=entities[1:3], short=ENTITIES)
    of = {
        "accuracy": drawn(9, LABELS),
        "macro_f1": drawn(9, LABELS),
        "f1_over_answers": drawn(9, (" no", " yes"), per_group=3),
        "exact_match_of_questions": drawn(9, (" no", " yes"), per_group=3),
        "f1": [
            Answer(record, (-1.0, -2.0, -2.0, -2.0, -2.0, -2.0)),
            Answer(record, (-2.0, -2.0, -2.0, -1.0, -2.0, -2.0)),
        ],
        "exact_match": [generated("so 5", "5"), generated("6", "5")],
    }
    assert of.keys() == STATISTICS.keys()
    for metric, answers in of.items():
        again = [AnswerLine.model_validate_json(AnswerLine.of(answer).text()).answer() for answer in answers]
        assert score(metric, again) == score(metric, answers)


# Errors and intervals ---------------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_the_harness_own() -> None:
    from lm_eval.api.metrics import mean_stderr

    answers = drawn(200, (" no", " yes"))
    assert score("accuracy", answers).standard_error == pytest.approx(mean_stderr([float(a.right) for a in answers]))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "f1_over_answers", "exact_match_of_questions"])
def test_the_bootstrap_is_that_of_drawing_units_with_replacement(metric: str) -> None:
    answers = drawn(90, (" no", " yes"), per_group=3)
    found = score(metric, answers)
    rng = np.random.default_rng(1)
    by_question = metric in ("f1_over_answers", "exact_match_of_questions")
    units = [answers[i : i + 3] for i in range(0, 90, 3)] if by_question else [[answer] for answer in answers]
    plain: list[float] = []
    for _ in range(1000):
        drawn_units = [units[number] for number in rng.integers(len(units), size=len(units))]
        renamed = [
            Answer(replace(answer.example, group=str(number)), answer.log_likelihoods)
            for number, unit in enumerate(drawn_units)
            for answer in unit
        ]
        plain.append(_value(metric, renamed))
    assert found.standard_error == pytest.approx(np.std(plain, ddof=1), rel=0.12)
    assert found.interval is not None
    assert found.interval == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.03)


def _value(metric: str, answers: list[Answer]) -> float:
    statistics = STATISTICS[metric](answers)
    return float(statistics.of_sums(statistics.units.sum(axis=0)))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        rows = rng.random(150) < 0.7
        interval = score("accuracy", [chosen(" yes" if right else " no", " yes") for right in rows]).interval
        assert interval is not None
        covered += interval[0] <= 0.7 <= interval[1]
    assert 0.9 <= covered / 200 <= 0.99


def test_the_same_answers_and_seed_give_the_same_score() -> None:
    answers = drawn(50, LABELS)
    assert score("macro_f1", answers) == score("macro_f1", answers)
    assert score("macro_f1", answers, seed=1) != score("macro_f1", answers)
    assert score("macro_f1", answers, seed=1).value == score("macro_f1", answers).value


def test_few_rows_have_no_error_and_no_rows_no_score() -> None:
    assert score("macro_f1", [chosen(" yes", " yes")]) == Score(0.5, None, None, 1)
    assert score("accuracy", []) == Score(None, None, None, 0)
