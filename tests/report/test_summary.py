"""The sentences of the summary, on numbers made by hand."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from multilora.report import summary
from report.by_hand import (
    LAYERS,
    analysed,
    analysis,
    changed,
    compared_results,
    results,
    results_without,
    scores,
    swapped_results,
    without_full,
    zeroed,
)


def sentences(data: Any, results: Sequence[Any]) -> list[str]:
    return summary.sentences(analysed(data), compared_results(results))


def only(words: str, found: list[str]) -> str:
    (sentence,) = (text for text in found if words in text)
    return sentence


def test_every_part_has_its_sentence_with_the_numbers() -> None:
    """A matrix adds 0, 0.001 or 0.002 and a seed as many 0.002 to each measure, so 0.003 on average."""
    assert sentences(analysis(), [results()]) == [
        "Trained on the mixture, multilora has the best average over tasks, 65.0 % (95 % interval 65.0 to 65.0, 3 "
        "seeds); next is lora@24 with 62.0 %.",
        "Trained on the mixture, MultiLoRA scores on average 3.0 points above LoRA of equal total rank (lora@24) (95 % "
        "interval +1.0 to +5.0, 3 seeds), 6.9 points above LoRA of one module's rank (lora@8) (95 % interval +6.7 to "
        "+7.1, 3 seeds) and 5.0 points above full fine-tuning (95 % interval +5.0 to +5.0, 3 seeds).",
        "Trained on each task alone, multilora has the best average over tasks, 65.0 % (95 % interval 65.0 to 65.0, 3 "
        "seeds); next is lora@24 with 62.0 %.",
        "Trained on each task alone, MultiLoRA scores on average 3.0 points above LoRA of equal total rank (lora@24) "
        "(95 % interval +1.0 to +5.0, 3 seeds), 6.9 points above LoRA of one module's rank (lora@8) (95 % interval "
        "+6.7 to +7.1, 3 seeds) and 5.0 points above full fine-tuning (95 % interval +5.0 to +5.0, 3 seeds).",
        "MultiLoRA's effective rank is 2.00 times that of LoRA of equal total rank (lora@24) on average; it is lower "
        "in none of 9 matrices (3 seeds).",
        "The share of ΔW's energy in its 8 largest singular values is 60.3 % with MultiLoRA, 80.3 % with LoRA and 40.3 "
        "% with full fine-tuning, on average.",
        "The share of ΔW's singular values that are zero is 62.5 % with MultiLoRA, 62.5 % with LoRA and 0.0 % with "
        "full fine-tuning, on average.",
        "The similarity of MultiLoRA's subspaces to full fine-tuning's is 0.503 (left) and 0.503 (right) on average, "
        "that of LoRA of equal total rank (lora@24) 0.203 and 0.203; MultiLoRA's is higher in 9 and 9 of 9 matrices.",
        "Two of MultiLoRA's modules have a similarity of 0.203 (left) and 0.203 (right) on average, where random "
        "subspaces have 0.125 and 0.125; the strongest module holds 40.3 % of the modules' energy, where an even share "
        "is 33.3 %.",
        "In the top directions of MultiLoRA's ΔW, W is 2.00 times as large as in random ones, and 8.00 times in its "
        "own top directions; ‖ΔW‖ is 3.00 times what W has there, on average.",
        "Merging MultiLoRA into bf16 weights has an error of 5.3 % of ‖ΔW‖ on average, and leaves 10.3 % of the "
        "entries that ΔW changes as they were.",
        "MultiLoRA trains 123,456 parameters at 1,000 tokens per second, 1.00 times as fast as LoRA of equal total "
        "rank (lora@24), with 1.00 times its peak memory.",
        "The loss on general text changes by +0.250 with MultiLoRA, +0.250 with LoRA (lora@24) and +0.250 with full "
        "fine-tuning, in nats per token.",
    ]


def test_what_the_runs_do_not_tell_is_left_out() -> None:
    assert sentences(None, []) == []
    assert len(sentences(analysis(), [])) == 7
    assert len(sentences(None, [results()])) == 6
    whole = sentences(analysis(), [results()])
    less = sentences(without_full(analysis()), [results_without(results(), "full")])
    assert not any("full" in text for text in less)
    assert len(less) == len(whole) - 1  # that about subspaces
    alone = sentences(None, [results_without(results(), "multilora")])
    assert [text.split(",")[0] for text in alone] == [
        "Trained on the mixture", "Trained on each task alone", "The loss on general text changes by +0.250 with LoRA"
        " (lora@24) and +0.250 with full fine-tuning",
    ]  # fmt: skip


def test_lower_is_said_with_its_count() -> None:
    data = changed(analysis(), lambda m: m["run"] == "multilora seed 1" and m["layer"] == LAYERS[1], effective_rank=1.0)
    text = only("effective rank", sentences(data, []))
    assert "is 1.79 times that of" in text
    assert "it is lower in 1 of 9 matrices (3 seeds)" in text


def test_one_has_no_plural() -> None:
    compared = results(1)
    average = compared["regimes"]["mixed"]["differences"][0]["tasks"]["average"]
    average |= {"mean": -0.01, "low": -0.03, "high": 0.01}
    compared["methods"]["multilora"]["trainable_parameters"] = 1
    found = sentences(analysis(1, LAYERS[:1]), [compared])
    said = " ".join(found)
    assert not re.search(r"\b1 (seeds|matrices|points|parameters)\b", said)
    assert "in none of 1 matrix (1 seed)" in said
    assert "trains 1 parameter at" in said
    assert "1.0 point below LoRA of equal total rank (lora@24) (no difference shown, 95 % interval −3.0 to +1.0" in said
    assert "5.0 points above full fine-tuning (one seed, so chance is unknown)" in said


def test_equal_averages_share_the_first_place() -> None:
    compared = results()
    compared["regimes"]["mixed"]["scores"]["full"] = {"average": scores(0.65)}
    text = only("Trained on the mixture, full", sentences(None, [compared]))
    assert text.startswith("Trained on the mixture, full and multilora share the best average over tasks, 65.0 % (3 s")
    assert "5.0 points" not in only("Trained on the mixture, MultiLoRA", sentences(None, [compared]))
    assert "the same as full fine-tuning" in only("Trained on the mixture, MultiLoRA", sentences(None, [compared]))


def test_forgetting_has_a_sign_and_may_be_unmeasured() -> None:
    compared = results()
    compared["methods"]["multilora"]["forgetting"]["mean"] = -0.0123
    compared["methods"]["full"]["forgetting"] = None
    text = only("general text", sentences(None, [compared]))
    assert text == (
        "The loss on general text changes by −0.0123 with MultiLoRA and +0.250 with LoRA (lora@24), in nats per token."
    )


def test_several_comparisons_are_numbered() -> None:
    found = sentences(analysis(), [results(), swapped_results(results())])
    assert only("Comparison 1: Trained on the mixture, MultiLoRA", found).count("3.0 points above")
    assert only("Comparison 2: Trained on the mixture, MultiLoRA", found).count("3.0 points below")
    assert len([text for text in found if text.startswith("Comparison ")]) == 12


def test_the_order_of_matrices_runs_and_methods_changes_nothing() -> None:
    data, compared = analysis(), results()
    expected = sentences(data, [compared])
    rng = random.Random(0)
    rng.shuffle(data["matrices"])
    data["runs"] = dict(rng.sample(sorted(data["runs"].items()), len(data["runs"])))
    compared["methods"] = dict(rng.sample(sorted(compared["methods"].items()), len(compared["methods"])))
    assert sentences(data, [compared]) == expected


@pytest.mark.parametrize("method", ["multilora", "lora@24", "full"])
def test_zero_delta_weights_leave_no_nan_and_no_empty_ratio(method: str) -> None:
    found = sentences(zeroed(analysis(), method), [results()])
    assert not any(re.search(r"\bnan\b|\binf\b|None|–", text) for text in found)
    ratios = [text for text in found if "effective rank is" in text]
    assert len(ratios) == (method != "lora@24")  # twice nothing is no comparison


def test_a_real_analysis_has_six_to_fourteen_sentences(study: Path) -> None:
    data = json.loads((study / "out" / "analysis.json").read_text())
    compared = json.loads((study / "comparison" / "results.json").read_text())
    found = sentences(data, [compared])
    assert 6 <= len(found) <= 14
    assert all(text[0].isupper() and text.endswith(".") and "<" not in text for text in found)
    assert not any(re.search(r"\bnan\b|\binf\b|None", text) for text in found)
    assert len(set(found)) == len(found)
