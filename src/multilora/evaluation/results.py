"""From a model's answers to scores: the tasks' official metrics with standard errors and bootstrap intervals.

A metric is a function of sums over units: rows, or questions where the metric is one of questions. So a bootstrap
resample is a multinomial draw of how often each distinct unit occurs, and ten thousand of them cost milliseconds.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from multilora.tasks.example import Example
from multilora.tasks.numbers import final_number

Floats = NDArray[np.float64]

RESAMPLES = 10_000
_AT_ONCE = 5_000_000  # numbers of a bootstrap held in memory at once


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered to one row.

    Attributes:
        example: the row.
        log_likelihoods: of each choice after the prompt, in nats; empty: the answer was generated.
        generated: the generated text, where there are no choices.
        whole: the whole generated text is the answer, and not its final number.
    """

    example: Example
    log_likelihoods: tuple[float, ...] = ()
    generated: str = ""
    whole: bool = False

    @property
    def chosen(self) -> int:
        """Number of the choice of highest likelihood; of equal ones the first, as in the harness."""
        return int(np.argmax(self.log_likelihoods))

    @property
    def predicted(self) -> str | None:
        """The chosen choice; or the generated text, or its final number; None: it has no number."""
        if self.log_likelihoods:
            return self.example.choices[self.chosen]
        return self.generated.strip() if self.whole else final_number(self.generated)

    @property
    def right(self) -> bool:
        """The prediction is one of the row's answers."""
        return self.predicted in self.example.answers


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value on a task.

    Attributes:
        value: the metric; None: there was nothing to score.
        standard_error: of this metric: for a mean the sample standard deviation over √count, as in the harness, and
            otherwise that of the bootstrap; None: fewer than two units.
        interval: 95 % percentile bootstrap interval; None: fewer than two units.
        count: units: rows, or questions where the metric is one of questions.
    """

    value: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    count: int


def row_id(example: Example) -> str:
    """What names the row: its id, or its place in the file where the task has no ids."""
    return example.id or example.source


# Statistics: what each metric is a function of -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a metric needs of each unit, and the metric as a function of the units' sums.

    Attributes:
        units: (units, k) numbers of each unit.
        of_sums: from sums over units (…, k) to the metric (…).
        is_mean: the metric is the mean of one number per row, so its standard error is known without a bootstrap.
    """

    units: Floats
    of_sums: Callable[[Floats], Floats]
    is_mean: bool = False


def mean_of(values: Sequence[float]) -> Statistics:
    """The mean of one number per row."""
    units = np.asarray(values, dtype=np.float64)
    return Statistics(np.stack([units, np.ones_like(units)], axis=1), lambda sums: sums[..., 0] / sums[..., 1], True)


def _accuracy(answers: Sequence[Answer]) -> Statistics:
    return mean_of([answer.right for answer in answers])


def _words_in_common(answers: Sequence[Answer]) -> Statistics:
    return mean_of([max(word_f1(said, right) for right in rights) for said, rights in map(_in_short, answers)])


def _exact_match(answers: Sequence[Answer]) -> Statistics:
    if not all(answer.log_likelihoods for answer in answers):  # of the final number, which is compared as it is
        return _accuracy(answers)
    pairs = map(_in_short, answers)
    return mean_of([normalised_answer(said) in map(normalised_answer, rights) for said, rights in pairs])


def _macro_f1(answers: Sequence[Answer]) -> Statistics:
    """The mean of the F1 of every label, as in the harness: one that does not occur has an F1 of 0."""
    labels = list(dict.fromkeys(choice for answer in answers for choice in answer.example.choices))
    said, right = (
        np.array([[text == label for label in labels] for text in texts])
        for texts in ([a.predicted for a in answers], [a.example.answers[0] for a in answers])
    )
    units = np.stack([said & right, said, right], axis=2).reshape(len(answers), -1)  # (rows, labels · 3)

    def of_sums(sums: Floats) -> Floats:
        return _f1(sums.reshape(*sums.shape[:-1], len(labels), 3)).mean(axis=-1)

    return Statistics(units.astype(np.float64), of_sums)


def _f1_over_answers(answers: Sequence[Answer]) -> Statistics:
    """F1 of the second choice ("yes"). A unit is a question: its answers are not independent of each other."""
    positive = [a.example.choices[1] for a in answers]
    said = np.array([a.predicted == yes for a, yes in zip(answers, positive, strict=True)])
    right = np.array([yes in a.example.answers for a, yes in zip(answers, positive, strict=True)])
    return Statistics(_summed_by_question(answers, np.stack([said & right, said, right], axis=1)), _f1)


def _exact_match_of_questions(answers: Sequence[Answer]) -> Statistics:
    """The share of questions of which every answer is judged rightly."""
    wrong = np.array([[not answer.right] for answer in answers])
    whole = (_summed_by_question(answers, wrong)[:, 0] == 0).astype(np.float64)
    return Statistics(np.stack([whole, np.ones_like(whole)], axis=1), lambda sums: sums[..., 0] / sums[..., 1])


STATISTICS: Mapping[str, Callable[[Sequence[Answer]], Statistics]] = MappingProxyType(
    {
        "accuracy": _accuracy,
        "macro_f1": _macro_f1,
        "f1_over_answers": _f1_over_answers,
        "exact_match_of_questions": _exact_match_of_questions,
        "f1": _words_in_common,
        "exact_match": _exact_match,
    }
)
# Metrics that hold of a question with all its rows: such rows are sampled, and left out, together.
OF_QUESTIONS = frozenset({"f1_over_answers", "exact_match_of_questions"})


def _f1(sums: Floats) -> Floats:
    """From (…, [true positives, predicted, right]) to F1; 0 where nothing is predicted and nothing right."""
    total = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], total, out=np.zeros_like(total), where=total > 0)


def _summed_by_question(answers: Sequence[Answer], rows: NDArray[np.bool_]) -> Floats:
    """(rows, k) → (questions, k), in the order of the questions' first rows."""
    numbers: dict[str, int] = {}
    question = [numbers.setdefault(answer.example.group, len(numbers)) for answer in answers]
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, question, rows)
    return sums


# Comparing words, as SQuAD and ReCoRD do --------------------------------------------------------------------------


def normalised_answer(text: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(said: str, right: str) -> float:
    """F1 of the words that two answers have in common, after normalisation."""
    one, other = normalised_answer(said).split(), normalised_answer(right).split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def _in_short(answer: Answer) -> tuple[str, list[str]]:
    """The prediction and the answers, each in short."""
    example = answer.example
    short = dict(zip(example.choices, example.short or example.choices, strict=True))
    return short[example.choices[answer.chosen]], [short[right] for right in example.answers]


# Scores -----------------------------------------------------------------------------------------------------------


def score(metric: str, answers: Sequence[Answer], seed: int = 0) -> Score:
    """A metric's value, standard error and interval.

    Args:
        metric: a key of `STATISTICS`.
        answers: the answers to all rows; none: a score without value.
        seed: of the bootstrap. The same answers and seed give the same score.
    """
    return score_of(STATISTICS[metric](answers), seed) if answers else Score(None, None, None, 0)


def score_of(statistics: Statistics, seed: int = 0) -> Score:
    """The score of a metric that is given by its statistics (at least one unit)."""
    units = statistics.units
    count = len(units)
    value = float(statistics.of_sums(units.sum(axis=0)))
    if count < 2:
        return Score(value, None, None, count)
    resampled = _bootstrap(statistics, seed)
    error = units[:, 0].std(ddof=1) / np.sqrt(count) if statistics.is_mean else resampled.std(ddof=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Score(value, float(error), (float(low), float(high)), count)


def _bootstrap(statistics: Statistics, seed: int) -> Floats:
    """(resamples,) the metric of as many units drawn with replacement."""
    distinct, occurrences = np.unique(statistics.units, axis=0, return_counts=True)
    count = len(statistics.units)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(RESAMPLES, _AT_ONCE // len(distinct)))
    parts: list[Floats] = []
    for first in range(0, RESAMPLES, chunk):
        draws = rng.multinomial(count, occurrences / count, size=min(chunk, RESAMPLES - first))
        parts.append(statistics.of_sums(draws.astype(np.float64) @ distinct))
    return np.concatenate(parts)
