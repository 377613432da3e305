"""The harness's own tasks: its metrics and groups, the same samples and long prompts as ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from evaluation.in_memory import GivenTask, stock_task, yes_no
from multilora import InputError
from tiny_run import byte_level_tokenizer

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")

from multilora.evaluation.harness import evaluate_tasks
from multilora.evaluation.records import TaskEvaluation
from multilora.evaluation.runner import Runner, quiet
from multilora.evaluation.stock import StockTasks, find_stock

MakeModel = Callable[..., PreTrainedModel]
WORDS = ("one", "two", "three", "so")


@pytest.fixture
def tokenizer() -> Any:
    return byte_level_tokenizer()


@pytest.fixture
def model(make_llama: MakeModel, tokenizer: Any) -> PreTrainedModel:
    return make_llama(vocab_size=len(tokenizer), max_position_embeddings=128)


def boolq(count: int, length: int = 1) -> list[dict[str, Any]]:
    return [{"passage": "one " * (1 + i * length), "question": "is two", "label": i % 2} for i in range(count)]


def cb(count: int) -> list[dict[str, Any]]:
    return [{"premise": f"{WORDS[i % 4]} {i}", "hypothesis": "two", "label": i % 3} for i in range(count)]


def gsm8k(count: int) -> list[dict[str, Any]]:
    return [{"question": f"{WORDS[i % 4]} {i}", "answer": f"so #### {i}"} for i in range(count)]


def run(model: Any, tokenizer: Any, *tasks: Any, groups: Any = None, **options: Any) -> dict[str, TaskEvaluation]:
    stock = StockTasks({task.task_name: task for task in tasks}, groups or {})
    return dict(evaluate_tasks(model, tokenizer, [], harness_tasks=stock, **options).tasks)


def plain(model: Any, tokenizer: Any, task: Any) -> Any:
    """What the harness itself makes of the task."""
    from lm_eval.evaluator import evaluate

    task.set_fewshot_seed(seed=1234)
    with quiet():
        found = evaluate(Runner(model, tokenizer, 4, 128).lm, {"tasks": {task.task_name: task}}, bootstrap_iters=100)
    return found["results"][task.task_name]


def test_values_and_errors_are_the_harness_own(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    for definition, rows in (("super_glue/boolq/default.yaml", boolq(30)), ("super_glue/cb/default.yaml", cb(30))):
        task = stock_task(tmp_path, definition, rows)
        expected = plain(model, tokenizer, task)
        (found,) = run(model, tokenizer, task).values()
        assert found.metrics["acc"].value == expected["acc,none"]
        assert found.metrics["acc"].standard_error == pytest.approx(expected["acc_stderr,none"])
        assert found.metrics["acc"].count == 30
    f1 = found.metrics["f1"]
    assert f1.value == expected["f1,none"]
    assert f1.standard_error is not None  # where the harness has none
    assert f1.interval is not None
    assert f1.value is not None
    assert f1.interval[0] <= f1.value <= f1.interval[1]


def test_every_filter_of_gsm8k_is_a_metric(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    kwargs = {"until": ["Question:"], "do_sample": False, "max_gen_toks": 6}
    task = stock_task(tmp_path, "gsm8k/gsm8k.yaml", gsm8k(5), generation_kwargs=kwargs)
    (found,) = run(model, tokenizer, task).values()
    assert set(found.metrics) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert [record.filter for record in found.predictions].count("strict-match") == 5
    json.dumps([record.content() for record in found.predictions], allow_nan=False)


def test_shots_are_those_that_the_harness_draws(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    task = stock_task(
        tmp_path, "super_glue/boolq/default.yaml", boolq(10), num_fewshot=2, fewshot_config={"samples": boolq(10)}
    )
    expected = plain(model, tokenizer, task)
    with_shots = [request.args[0] for request in task.instances]
    (found,) = run(model, tokenizer, task, on_long_prompt="truncate_left").values()
    assert [request.args[0] for request in task.instances] == with_shots
    assert all(prompt.count("Question:") == 3 for prompt in with_shots)
    assert found.metrics["acc"].value == expected["acc,none"]


def test_long_rows_are_left_out_and_the_others_keep_their_shots(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    task = stock_task(
        tmp_path, "super_glue/boolq/default.yaml", boolq(40, 4), num_fewshot=1, fewshot_config={"samples": boolq(6, 8)}
    )
    (every,) = run(model, tokenizer, task, on_long_prompt="truncate_left").values()
    (some,) = run(model, tokenizer, task, on_long_prompt="drop").values()
    assert some.long_prompts is not None
    assert 0 < some.long_prompts.count == some.long_prompts.dropped == 40 - len(some.predictions)
    assert every.long_prompts is not None
    assert every.long_prompts.count == some.long_prompts.count
    by_id = {record.id: record for record in every.predictions}
    for record in some.predictions:
        theirs = by_id[record.id].responses
        assert np.array(record.responses)[:, 0] == pytest.approx(np.array(theirs)[:, 0], abs=1e-4)
    with pytest.raises(InputError, match=r"stock_boolq: row \d+ needs \d+ tokens"):
        run(model, tokenizer, task, on_long_prompt="fail")


def test_where_nothing_is_left_there_is_no_score(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    task = stock_task(tmp_path, "super_glue/boolq/default.yaml", boolq(4))
    (found,) = run(model, tokenizer, task, max_length=3).values()
    assert [(score.value, score.count) for score in found.metrics.values()] == [(None, 0)]
    assert (found.predictions, found.rows) == ([], 4)


def test_a_limit_is_a_fixed_sample(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    task = stock_task(tmp_path, "super_glue/boolq/default.yaml", boolq(30))
    (one,), (other,) = (run(model, tokenizer, task, limit=8).values() for _ in range(2))
    ids = [record.id for record in one.predictions]
    assert ids == [record.id for record in other.predictions] != [str(number) for number in range(8)]
    assert len(ids) == one.rows == 8


def test_a_groups_score_is_the_harness_own(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    for number, count in enumerate((6, 30)):
        (tmp_path / str(number)).mkdir()
        stock_task(tmp_path / str(number), "super_glue/boolq/default.yaml", boolq(count), task=f"part{number}")
    group = {
        "group": "both",
        "task": ["part0", "part1"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "both.yaml").write_text(json.dumps(group))
    with quiet():
        loaded = TaskManager(include_defaults=False, include_path=str(tmp_path)).load(["both"])
    stock = StockTasks(loaded["tasks"], loaded["groups"])
    found = evaluate_tasks(model, tokenizer, [], harness_tasks=stock).tasks
    assert list(found) == ["part0", "part1", "both"]
    parts, both = [found[name].metrics["acc"] for name in ("part0", "part1")], found["both"].metrics["acc"]
    assert both.value == pytest.approx(sum(part.value * part.count for part in parts) / 36)  # pyright: ignore
    assert both.count == found["both"].rows == 36
    assert both.standard_error is not None
    found = evaluate_tasks(model, tokenizer, [], harness_tasks=stock, max_length=50).tasks
    assert found["part1"].long_prompts is not None
    assert found["part1"].long_prompts.count
    assert found["both"].metrics["acc"].count == sum(found[name].metrics["acc"].count for name in ("part0", "part1"))
    found = evaluate_tasks(model, tokenizer, [], harness_tasks=stock, max_length=3).tasks
    assert found["both"].not_scored


def test_ours_and_the_harness_own_in_one_evaluation(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    stock = StockTasks({"stock_boolq": stock_task(tmp_path, "super_glue/boolq/default.yaml", boolq(4))})
    ours = GivenTask("ours", yes_no(["one", "two"]))
    assert list(evaluate_tasks(model, tokenizer, [ours], harness_tasks=stock).tasks) == ["ours", "stock_boolq"]


def test_no_names_are_no_tasks() -> None:
    assert find_stock([]) == StockTasks()
