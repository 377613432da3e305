"""Our tasks as tasks of lm-evaluation-harness: made in memory, with the prompts and choices as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multilora.errors import InputError
from multilora.tasks.example import Example, Task

# Where the harness's own gsm8k stops; it adds the model's eos token itself.
STOPS = ("Question:", "</s>", "<|im_end|>")


def require_harness() -> None:
    """lm-evaluation-harness is installed.

    Raises:
        InputError: it is not.
    """
    try:
        import lm_eval  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError(
            "evaluation needs lm-evaluation-harness, which is not installed: pip install 'multilora[eval]'"
        ) from error


def harness_task(task: Task, examples: Sequence[Example], max_new_tokens: int) -> Any:
    """The harness's task of these rows, in their order, without shots.

    Scoring is left to `results`: the harness computes no metric here, and logs each row's answer.

    Args:
        task: whose scoring is by choices or by a final number.
        examples: its rows, at least one.
        max_new_tokens: of a generated answer.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    chosen = task.scoring.kind == "choices"
    rows = [
        {
            "prompt": row.prompt,
            "choices": list(row.choices),
            "answers": [row.choices.index(right) for right in row.answers] if chosen else list(row.answers),
        }
        for row in examples
    ]
    config: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answers",
        "target_delimiter": "",  # the choices begin with their own space
        "num_fewshot": 0,
        "process_results": _no_metrics,
    }
    if chosen:
        config |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    else:
        kwargs = {"until": list(STOPS), "do_sample": False, "temperature": 0.0, "max_gen_toks": max_new_tokens}
        config |= {"output_type": "generate_until", "generation_kwargs": kwargs}
    return ConfigurableTask(config=config)


def _no_metrics(doc: Any, results: Any) -> dict[str, float]:
    return {}
