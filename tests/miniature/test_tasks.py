"""The generated tasks: the same for a seed, disjoint splits, right answers."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multilora.miniature.draws import Draws
from multilora.miniature.knowledge import QUESTIONS
from multilora.miniature.tasks import TASKS, generate_tasks, write_tasks
from multilora.miniature.words import CATEGORIES, CUES, NAMES, OPPOSITE
from multilora.miniature.world import VALUES, world
from multilora.tasks.keys import normalised

SMALL = {"train": 300, "validation": 60, "test": 100}
SEEDS = (0, 1, 17)
Tasks = dict[str, dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module", params=SEEDS)
def tasks(request: pytest.FixtureRequest) -> Tasks:
    return generate_tasks(request.param, SMALL)


@pytest.fixture(scope="module")
def rows(tasks: Tasks) -> dict[str, list[dict[str, Any]]]:
    """All splits of a task in one list."""
    return {name: [row for split in splits.values() for row in split] for name, splits in tasks.items()}


# What every task keeps ---------------------------------------------------------------------------------------------


def test_sizes_fields_and_ids(tasks: Tasks) -> None:
    assert list(tasks) == list(TASKS)
    for splits in tasks.values():
        assert {split: len(rows) for split, rows in splits.items()} == SMALL
        ids = [row["id"] for rows in splits.values() for row in rows]
        assert len(set(ids)) == len(ids)
        for row in (row for rows in splits.values() for row in rows):
            assert row.keys() - {"choices"} == {"id", "prompt", "completion", "answer"}
            assert row["completion"].startswith(" ")
            assert row["prompt"].endswith("\nAnswer:")


def test_completions_are_among_choices(rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, found in rows.items():
        count = {"nlu_entailment": 3}.get(name, 4) if name.startswith(("nlu", "knowledge")) else 0
        for row in found:
            assert len(row.get("choices", ())) == len(set(row.get("choices", ()))) == count
            if count:
                assert row["completion"] in row["choices"]
                assert row["completion"] == f" {row['answer']}"


def test_no_prompt_is_in_two_splits_or_twice(tasks: Tasks) -> None:
    for splits in tasks.values():
        prompts = [normalised(row["prompt"]) for rows in splits.values() for row in rows]
        assert len(set(prompts)) == len(prompts)


def content(name: str, row: dict[str, Any]) -> str | tuple[Any, ...]:
    """What no two splits share, read from the prompt."""
    prompt: str = row["prompt"]
    if name.startswith("instruction"):
        return tuple(sorted(words_of(row)))
    if name == "nlu_entailment":
        return tuple(sorted(prompt.split("\n", maxsplit=1)[0].split(". ")))
    if name == "nlu_sense":
        return cue_of(row)[1]
    if name.startswith("knowledge"):
        return entity_of(row)
    numbers = tuple(map(int, re.findall(r"\d+", prompt)))
    return numbers


@pytest.mark.parametrize("name", TASKS)
def test_what_decides_the_split_is_in_one_split(tasks: Tasks, name: str) -> None:
    seen = {split: {content(name, row) for row in rows} for split, rows in tasks[name].items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not seen[one] & seen[other]


def test_no_wording_of_a_question_is_in_two_splits(tasks: Tasks) -> None:
    for name in ("knowledge_people", "knowledge_towns"):
        seen = {
            split: {row["prompt"].split("?")[0].replace(entity_of(row), "{e}") for row in rows}
            for split, rows in tasks[name].items()
        }
        assert not seen["train"] & seen["test"]
        assert not seen["train"] & seen["validation"]
        assert not seen["validation"] & seen["test"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_splits_are_disjoint_for_any_seed(seed: int) -> None:
    tasks = generate_tasks(seed, {"train": 60, "validation": 20, "test": 20})
    for name, splits in tasks.items():
        seen = {split: {content(name, row) for row in rows} for split, rows in splits.items()}
        assert not seen["train"] & (seen["test"] | seen["validation"])
        assert not seen["validation"] & seen["test"]


# Determinism -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_rows_on_every_machine() -> None:
    rows = generate_tasks(0, {"train": 40, "validation": 10, "test": 10})
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    assert digest == FIRST_ROWS, "the tasks changed: every figure measured on the miniature is void"


FIRST_ROWS = "3f7bdf19b5c17e6242e981e68ad6a67c53c56aca661b2ded1cec111ab234a906"


def test_another_seed_gives_other_rows() -> None:
    sizes = {"train": 20, "validation": 5, "test": 5}
    assert all(one != other for one, other in zip(*(generate_tasks(s, sizes).values() for s in (0, 1)), strict=True))


def test_fewer_rows_are_the_first_ones() -> None:
    few, many = generate_tasks(3, {"train": 10}), generate_tasks(3, {"train": 30, "test": 20})
    for name in TASKS:
        assert many[name]["train"][:10] == few[name]["train"]


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="too few different rows"):
        generate_tasks(0, {"validation": 3000}, ["nlu_sense"])


def test_files_hold_the_rows(tmp_path: Path) -> None:
    sizes = {"train": 12, "validation": 3, "test": 4}
    write_tasks(tmp_path, 5, sizes)
    for name, splits in generate_tasks(5, sizes).items():
        for split, rows in splits.items():
            lines = (tmp_path / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line) for line in lines] == rows


@given(st.integers(0, 1000), st.integers(1, 30))
def test_draws_stay_within_their_items(seed: int, count: int) -> None:
    draws = Draws(seed, "test")
    assert all(0 <= draws.below(count) < count for _ in range(20))
    assert sorted(draws.shuffled(range(count))) == list(range(count))
    assert len(set(draws.sample(range(count), count // 2))) == count // 2


# Right answers, worked out anew ------------------------------------------------------------------------------------


def words_of(row: dict[str, Any]) -> list[str]:
    return row["prompt"].split("\n")[1].removeprefix("Words: ").split(" ")


def instructed(instruction: str, w: list[str]) -> list[str]:
    """Another reading of the instructions, by their words."""
    quoted = re.fullmatch(r"Write (\w+) in place of (\w+)\.|Let (\w+) stand where (\w+) stands\.", instruction)
    change = re.fullmatch(r"Change (\w+) to (\w+)\.", instruction)
    if quoted or change:
        pair = [group for group in quoted.groups() if group] if quoted else list(change.groups()[::-1])  # type: ignore[union-attr]
        return " ".join(w).replace(pair[1], pair[0]).split()
    if beside := re.search(r"(after|before) (\w+)[?.]$", instruction):
        return [w[w.index(beside[2]) + (1 if beside[1] == "after" else -1)]]
    if "opposite" in instruction:
        return [OPPOSITE[word] for word in w]
    without = instruction.startswith(("Leave out", "Drop", "Write all words but"))
    for kind, members in CATEGORIES.items():
        if re.search(rf"\b{kind}\b", instruction):
            return [word for word in w if (word in members) != without]
    if any(text in instruction for text in ("reverse", "backwards", "from last to first")):
        return list(reversed(w))
    if any(text in instruction for text in ("Swap", "change places")):
        return [w[-1], *w[1:-1], w[0]]
    if any(text in instruction for text in ("twice", "two times")):
        return [w[0]] * 2
    if any(text in instruction for text in ("second", "number two")):
        return [w[1]]
    at_start = any(text in instruction for text in ("first", "start"))
    if without:
        return w[1:] if at_start else w[:-1]
    return [w[0] if at_start else w[-1]]


def test_instructions_are_carried_out(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["instruction_order"] + rows["instruction_pick"]:
        instruction = row["prompt"].split("\n")[0].removeprefix("Instruction: ")
        assert row["completion"] == " " + " ".join(instructed(instruction, words_of(row))), row
        assert row["answer"] == row["completion"].strip()


def test_questions_on_facts_have_the_right_answer(rows: dict[str, list[dict[str, Any]]]) -> None:
    counts = dict.fromkeys(("Yes", "No", "Unknown"), 0)
    for row in rows["nlu_entailment"]:
        said = dict(re.findall(r"The (\w+) is (\w+)\.", row["prompt"].split("\n")[0]))
        thing, asked = re.search(r"Question: Is the (\w+) (\w+)\?", row["prompt"]).groups()  # type: ignore[union-attr]
        known = said[thing]
        truth = {known: "Yes", OPPOSITE[known]: "No"}.get(asked, "Unknown")
        assert row["answer"] == truth
        counts[truth] += 1
    total = sum(counts.values())
    assert all(abs(count / total - 1 / 3) < 0.1 for count in counts.values())


def cue_of(row: dict[str, Any]) -> tuple[str, str]:
    """The noun whose sentence this is, and the sentence."""
    sentence, question = row["prompt"].split("\n")[:2]
    word = re.search(r"does (\w+) mean", question)[1]  # type: ignore[index]
    cue = re.sub(rf"\b({'|'.join(NAMES)})\b", "{n}", re.sub(rf"\b{word}\b", "{w}", sentence))
    (noun,) = [noun for noun, cues in CUES.items() if cue in cues]
    return noun, cue


def test_senses_fit_their_sentences(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["nlu_sense"]:
        assert cue_of(row)[0] == row["answer"]


def entity_of(row: dict[str, Any]) -> str:
    names = {entity.name for entity in (*world().people, *world().towns)}
    (found,) = names & set(re.findall(r"\w+", row["prompt"]))
    return found


def test_answers_agree_with_the_world(rows: dict[str, list[dict[str, Any]]]) -> None:
    facts = {entity.name: entity.facts for entity in (*world().people, *world().towns)}
    for row in rows["knowledge_people"] + rows["knowledge_towns"]:
        question, options = row["prompt"].removeprefix("Question: ").removesuffix("?\nAnswer:").split(" Is it ")
        name = entity_of(row)
        wording = question.replace(name, "{e}")
        (attribute,) = [a for a, by_split in QUESTIONS.items() if any(wording in asked for asked in by_split.values())]
        values = options.replace(" or ", ", ").split(", ")
        assert [f" {value}" for value in values] == row["choices"]
        assert len(set(values)) == 4
        assert set(values) <= set(VALUES[attribute])
        assert row["answer"] == facts[name][attribute]


def test_worked_answers_add_up(rows: dict[str, list[dict[str, Any]]]) -> None:
    calculate = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    for row in rows["arithmetic_change"] + rows["arithmetic_groups"]:
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", row["completion"])
        assert len(steps) == 2
        for a, sign, b, result in steps:
            assert calculate[sign](int(a), int(b)) == int(result)
        assert steps[0][3] in (steps[1][0], steps[1][2])
        assert row["completion"].endswith(f"\n#### {steps[1][3]}")
        assert row["answer"] == steps[1][3]
        assert solved(row["prompt"]) == int(row["answer"])


def solved(problem: str) -> int:
    """The problem read sentence by sentence."""
    if groups := re.search(r"has (\d+) \w+ with (\d+) (?:old and (\d+) new )?\w+ in each", problem):
        holders, size, more = groups.groups()
        total = int(holders) * (int(size) + int(more or 0))
        problem = problem[groups.end() :]
    else:
        start = re.search(r"has (\d+)", problem)
        assert start
        total, problem = int(start[1]), problem[start.end() :]
    for verb, number in re.findall(r"(gets|finds|buys|loses|gives away|sells) (\d+)", problem):
        total += int(number) if verb in ("gets", "finds", "buys") else -int(number)
    return total
