"""Verdicts on analyses made by hand: which claims hold, when they flip, and what is missing otherwise."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multilora.bench.record import BenchRecord
from multilora.comparison.record import RegimeResults
from multilora.comparison.statistics import mean_over_seeds
from multilora.report import claims
from multilora.report.claims import Claim
from multilora.report.criteria import is_bell, near_fullest
from multilora.report.numbers import percent, short
from multilora.report.pairing import Method, Spectra, roles_of
from multilora.report.verdicts import gap, signed_points, tally
from multilora.spectral.record import Histogram
from report.bench import bench_content
from report.by_hand import (
    LAYERS,
    SEEDS,
    analysed,
    analysis,
    changed,
    compared_results,
    results,
    results_without,
    scores,
    swapped,
    swapped_results,
    without_full,
    zeroed,
)

FULL = {
    "score-mixed-full", "score-single-full", "lora-polarised", "full-bell", "between", "nearer", "subspace-left",
    "subspace-right",
}  # fmt: skip


def judge(data: Any, results: Sequence[Any], bench: BenchRecord | None = None) -> list[Claim]:
    return claims.judge(analysed(data), compared_results(results), bench)


def verdicts(claims: list[Claim]) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in claims}


def claim(id: str, data: Any, compared: Any = ()) -> Claim:
    return next(claim for claim in judge(data, compared) if claim.id == id)


def of(method: str) -> Callable[[dict[str, Any]], bool]:
    return lambda record: record["run"].startswith(f"{method} ")


def test_where_all_is_as_the_paper_says_all_claims_hold() -> None:
    found = judge(analysis(), [results()])
    assert set(verdicts(found).values()) == {"held"}
    assert len({claim.id for claim in found}) == len(found) == 20
    assert all(claim.text and claim.source and claim.evidence for claim in found)


def test_nothing_is_measured_without_numbers() -> None:
    found = judge(None, [])
    assert set(verdicts(found).values()) == {"not measured"}
    assert {claim.evidence for claim in found} == {"nothing was analysed", "no results of a comparison"}


@pytest.mark.parametrize(
    ("id", "data"),
    [
        ("lora-polarised", changed(analysis(), of("lora@24"), effective_rank=50.0)),
        ("lora-polarised", changed(analysis(), of("lora@24"), energy_share_8=0.1)),
        ("lora-zeros", changed(analysis(), lambda m: of("lora@24")(m) and m["layer"] == LAYERS[0], zeros=39.0)),
        ("between", changed(analysis(), of("multilora"), energy_share_1=0.05)),
        ("between", changed(analysis(), of("multilora"), effective_rank=9.0)),
        ("nearer", changed(analysis(), of("multilora"), gini=0.9)),
        ("subspace-left", changed(analysis(), of("multilora"), **{f"similarity_left_{k}": 0.1 for k in (1, 4)})),
        ("modules-differ", changed(analysis(), of("multilora"), module_similarity_right=0.6)),
        ("modules-balanced", changed(analysis(), of("multilora"), module_largest_energy=0.7)),
        ("mechanism-directions", changed(analysis(), of("multilora"), projection_delta_4=0.9)),
        ("mechanism-directions", changed(analysis(), of("multilora"), projection_delta_4=9.0)),
        ("mechanism-amplification", changed(analysis(), of("multilora"), amplification_4=0.9)),
        ("mergeable", changed(analysis(), of("multilora"), merge_error_bfloat16=0.2)),
    ],
)
def test_a_claim_about_spectra_fails_by_its_own_measure_alone(id: str, data: Any) -> None:
    if id == "subspace-left":  # the mean over ranks counts: two of five are not enough
        assert claim(id, data).verdict == "held"
        data = changed(data, of("multilora"), similarity_left_2=0.1, similarity_left_8=0.1)
    after = verdicts(judge(data, [results()]))
    assert after[id] == "not held"
    assert set(after.values()) == {"held", "not held"}
    related = {"lora-polarised", "between", "nearer"}
    failed = {name for name, verdict in after.items() if verdict == "not held"}
    assert failed <= ({id} | related if id in related else {id})


def histogram(counts: list[int], zeros: int) -> Histogram:
    return Histogram(first=0, counts=tuple(counts), zeros=zeros)


def test_a_spectrum_with_a_heavy_end_or_many_zeros_is_no_bell() -> None:
    data = analysis()
    for record in filter(of("full"), data["matrices"]):
        record["histogram"] = {"first": -15, "counts": [20, 14, 28, 2], "zeros": 0}
    assert claim("full-bell", data).verdict == "not held"
    assert is_bell(histogram([1, 2, 1], 3))
    assert not is_bell(histogram([1, 2, 1], 4))
    assert not is_bell(histogram([5], 0))
    assert not is_bell(histogram([], 7))
    assert near_fullest(histogram([9] + [0] * 6 + [10] + [0] * 5 + [3], 2)) == 10 / 24


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 50), st.integers(1, 9))
def test_a_bell_stays_one_mirrored_and_magnified(counts: list[int], zeros: int, times: int) -> None:
    shape = histogram(counts, zeros)
    assert is_bell(shape) == is_bell(histogram(counts[::-1], zeros))
    assert is_bell(shape) == is_bell(histogram([times * count for count in counts], times * zeros))
    assert 0 <= near_fullest(shape) <= 1


def test_swapping_the_numbers_of_multilora_and_lora_flips_what_compares_them() -> None:
    before = verdicts(judge(analysis(), [results()]))
    after = verdicts(judge(swapped(analysis()), [swapped_results(results())]))
    flipped = {"between", "nearer", "subspace-left", "subspace-right", "score-mixed-equal", "score-single-equal"}
    assert {name for name in before if before[name] != after[name]} == flipped
    assert {after[name] for name in flipped} == {"not held"}
    twice = judge(swapped(swapped(analysis())), [swapped_results(swapped_results(results()))])
    assert twice == judge(analysis(), [results()])


def test_the_order_of_matrices_runs_and_methods_changes_nothing() -> None:
    data, compared = analysis(), results()
    expected = judge(data, [compared])
    rng = random.Random(0)
    for _ in range(3):
        rng.shuffle(data["matrices"])
        data["runs"] = dict(rng.sample(sorted(data["runs"].items()), len(data["runs"])))
        compared["methods"] = dict(rng.sample(sorted(compared["methods"].items()), len(compared["methods"])))
        assert judge(data, [compared]) == expected


def test_the_numbers_of_the_seeds_change_nothing() -> None:
    expected = judge(analysis(), [])
    for order in itertools.permutations(range(SEEDS)):
        data = analysis()
        for run in data["runs"].values():
            run["seed"] = order[run["seed"]]
        assert judge(data, []) == expected


def test_without_full_fine_tuning_exactly_its_claims_are_unmeasured() -> None:
    before = {claim.id: claim for claim in judge(analysis(), [results()])}
    after = {claim.id: claim for claim in judge(without_full(analysis()), [results_without(results(), "full")])}
    assert {id for id, claim in after.items() if claim.verdict == "not measured"} == FULL
    assert all("no full fine-tuning among the" in after[id].evidence for id in FULL)
    assert {id: claim for id, claim in after.items() if id not in FULL} == {
        id: claim for id, claim in before.items() if id not in FULL
    }


def test_subspaces_compared_with_another_reference_are_unmeasured() -> None:
    data = analysis()
    for run in data["runs"].values():
        run["reference"] = "lora@24 seed 0"
    assert claim("subspace-left", data).verdict == "not measured"
    assert "not compared with full fine-tuning" in claim("subspace-left", data).evidence


def test_without_lora_or_multilora_the_evidence_says_so() -> None:
    for kind, words, id in (("lora", "no LoRA", "between"), ("multilora", "no MultiLoRA", "modules-differ")):
        data = analysis()
        data["runs"] = {name: run for name, run in data["runs"].items() if run["kind"] != kind}
        found = claim(id, data)
        assert (found.verdict, found.evidence) == ("not measured", f"{words} among the runs")


@pytest.mark.parametrize("method", ["multilora", "lora@24", "full"])
def test_zero_delta_weights_are_judged_without_nan(method: str) -> None:
    found = judge(zeroed(analysis(), method), [])
    assert not any(re.search(r"\bnan\b|\binf\b", claim.evidence) for claim in found)
    by_id = verdicts(found)
    if method == "multilora":
        unmeasured = {"modules-differ", "modules-balanced", "mechanism-directions", "mechanism-amplification"}
        assert {by_id[id] for id in unmeasured} == {"not measured"}
        assert by_id["subspace-left"] == by_id["nearer"] == "not held"
    elif method == "lora@24":
        assert by_id["lora-zeros"] == "held"
        assert by_id["subspace-left"] == "held"
    else:
        assert by_id["full-bell"] == "not held"


def test_one_matrix_of_one_seed_is_enough() -> None:
    found = judge(analysis(1, LAYERS[:1]), [results(1)])
    by_id = verdicts(found)
    assert {id for id, verdict in by_id.items() if verdict == "not measured"} == {
        f"score-{regime}-{other}" for regime in ("mixed", "single") for other in ("r", "full")
    }
    assert "1 of 1 matrix agrees" in claim("nearer", analysis(1, LAYERS[:1])).evidence
    assert "1 seed" in claim("nearer", analysis(1, LAYERS[:1])).evidence


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w@])\d[\d,]*(?:\.\d+)?(?![\w@])", text)


@pytest.mark.parametrize("id", ["lora-polarised", "between", "nearer"])
def test_every_number_in_the_evidence_was_computed(id: str) -> None:
    data = analysis()
    rng = random.Random(1)
    for record in data["matrices"]:
        for name in ("effective_rank", "energy_share_1", "energy_share_8", "gini"):
            record["measures"][name] *= rng.uniform(0.5, 1.5)
    by_place = {(m["run"], m["layer"]): m["measures"] for m in data["matrices"]}
    names = {"lora-polarised": ("lora@24", "full")}.get(id, ("multilora", "lora@24", "full"))
    said: list[str] = []
    for measure in ("effective_rank", "energy_share_1", "energy_share_8", "gini"):
        if measure == "gini" and id == "lora-polarised":
            continue
        values = [
            [by_place[f"{method} seed {seed}", layer][measure] for method in names]
            for seed in range(SEEDS)
            for layer in LAYERS
        ]
        agree = {
            "lora-polarised": lambda low, high, up="energy" in measure: low > high if up else low < high,
            "between": lambda m, lora, full: min(lora, full) < m < max(lora, full),
            "nearer": lambda m, lora, full: abs(m - full) < abs(lora - full),
        }[id]
        show = percent if "energy" in measure else short
        top = [measure.rpartition("_")[2]] if "energy" in measure else []
        said += [*top, *(show(fmean(column)) for column in zip(*values, strict=True))]
        said += [str(sum(agree(*row) for row in values)), str(len(values))]
        of_seeds = [sum(agree(*row) for row in values[s * len(LAYERS) :][: len(LAYERS)]) for s in range(SEEDS)]
        most = sum(2 * count > len(LAYERS) for count in of_seeds)
        said += [str(most), str(SEEDS)] if 0 < most < SEEDS else []
    evidence = claim(id, data).evidence
    assert numbers(evidence) == [*said, str(SEEDS)]


def test_the_evidence_names_the_lora_and_counts() -> None:
    evidence = claim("nearer", analysis()).evidence
    assert evidence.startswith("MultiLoRA, LoRA of equal total rank (lora@24) and full fine-tuning: effective rank ")
    assert "(9 of 9 matrices agree)" in evidence
    assert evidence.endswith("3 seeds")
    data = analysis()
    for name, run in list(data["runs"].items()):
        if run["kind"] == "lora":
            run |= {"method": "lora@8", "r": 8, "total_rank": 8}
            data["runs"][name] = run
    assert "LoRA of one module's rank (lora@8)" in claim("nearer", data).evidence
    assert claim("nearer", data).evidence.count("energy of the top") == 1  # 8 of 8 hold everything


def test_runs_outside_of_comparisons_are_paired_in_the_order_of_their_seeds() -> None:
    data = analysis(1)
    for number, run in enumerate(data["runs"].values()):
        run |= {"comparison": None, "seed": None if number else 7, "regime": None if number else "mixed"}
    assert verdicts(judge(data, [])) == verdicts(judge(analysis(1), []))
    mixed = analysis(2)  # a comparison, and a full fine-tuning beside it
    del mixed["runs"]["full seed 1"]
    mixed["runs"]["full seed 0"] |= {"comparison": None, "seed": None}
    for run in mixed["runs"].values():
        run["reference"] = None if run["kind"] == "full" else "full seed 0"
    assert verdicts(judge(mixed, [])) == verdicts(judge(analysis(), []))
    assert "2 seeds" in claim("nearer", mixed).evidence


def test_trainings_on_one_task_do_not_count_beside_those_on_the_mixture() -> None:
    data = analysis()
    for run, facts in list(data["runs"].items()):
        data["runs"][f"{run} rte"] = facts | {"regime": "rte"}
    alone = [m | {"run": f"{m['run']} rte", "measures": m["measures"] | {"gini": 0.99}} for m in data["matrices"]]
    data["matrices"] += alone
    assert judge(data, []) == judge(analysis(), [])


def test_a_layer_that_one_run_lacks_is_left_out() -> None:
    data = analysis(1)
    data["matrices"] = [m for m in data["matrices"] if m["run"] != "lora@24 seed 0" or m["layer"] != LAYERS[0]]
    assert "(2 of 2 matrices agree)" in claim("nearer", data).evidence


def test_ranks_that_differ_by_layer_leave_the_zeros_unmeasured() -> None:
    data = copy.deepcopy(analysis())
    for run in data["runs"].values():
        run["recipe"] = {"method": run["recipe"]["method"] | {"rank_pattern": {"q_proj": 4}}}
    assert claim("lora-zeros", data).verdict == "not measured"


def test_scores_hold_by_the_interval() -> None:
    for low, high, verdict, start in (
        (0.01, 0.05, "held", "multilora minus lora@24: +3.0 points, 95 % interval +1.0 to +5.0, 3 seeds"),
        (-0.01, 0.07, "not held", "no difference shown: multilora minus lora@24: +3.0 points"),
        (0.0, 0.07, "not held", "no difference shown: "),
        (-0.05, -0.01, "not held", "multilora minus lora@24: "),
    ):
        compared = results()
        average = compared["regimes"]["mixed"]["differences"][0]["tasks"]["average"]
        average |= {"low": low, "high": high}
        found = claim("score-mixed-equal", None, [compared])
        assert found.verdict == verdict
        assert found.evidence.startswith(start)
        assert claim("score-single-equal", None, [compared]).verdict == "held"


@pytest.mark.parametrize(
    ("values", "verdict", "start"),
    [
        ([0.60, 0.60, 0.60], "held", "multilora minus full: 0.0 points"),
        ([0.595, 0.594, 0.595], "held", "multilora minus full: −0.5 points"),
        ([0.60, 0.70, 0.50], "not held", "no match shown: multilora minus full: 0.0 points"),
        ([0.50, 0.50, 0.51], "not held", "multilora minus full: −9.7 points"),
    ],
)
def test_a_match_with_full_fine_tuning_has_a_margin_of_one_point(values: list[float], verdict: str, start: str) -> None:
    compared = results()
    for name, of_seeds in (("multilora", values), ("full", [0.6] * 3)):
        compared["regimes"]["mixed"]["scores"][name]["average"]["values"] = of_seeds
    found = claim("score-mixed-full", None, [compared])
    assert found.verdict == verdict
    assert found.evidence.startswith(start)
    assert "−1.0 points" in found.text


def test_seeds_that_do_not_pair_and_regimes_not_run_are_unmeasured() -> None:
    compared = results()
    compared["regimes"]["mixed"]["scores"]["full"] = {"average": scores(0.6, 2)}
    found = claim("score-mixed-full", None, [compared])
    assert (found.verdict, found.evidence) == (
        "not measured", "multilora and full have 3 and 2 seeds, which do not pair"
    )  # fmt: skip
    compared["regimes"]["mixed"]["scores"]["full"] = {}
    assert claim("score-mixed-full", None, [compared]).evidence == "full has no scores"
    del compared["regimes"]["single"]
    assert claim("score-single-equal", None, [compared]).evidence == "the regime 'single' was not run"


def test_of_several_comparisons_all_that_measure_a_claim_have_to_hold() -> None:
    good, bad, silent = results(), swapped_results(results()), results_without(results(), "multilora")
    assert claim("score-mixed-equal", None, [good, silent]).verdict == "held"
    found = claim("score-mixed-equal", None, [good, bad, silent])
    assert found.verdict == "not held"
    assert "comparison 1: multilora minus lora@24: +3.0" in found.evidence
    assert "comparison 2: multilora minus lora@24: −3.0" in found.evidence
    assert claim("score-mixed-equal", None, [silent]).evidence == "no MultiLoRA among the methods compared"


def test_resources_are_ratios_to_lora_of_equal_rank() -> None:
    compared = results()
    compared["methods"]["multilora"] |= {"tokens_per_second": 890.0, "peak_memory_bytes": 2_120_000_000}
    speed, memory = (claim(id, None, [compared]) for id in ("throughput", "memory"))
    assert (speed.verdict, memory.verdict) == ("not held", "not held")
    assert speed.evidence == "multilora against lora@24: 890 against 1,000 tokens per second, 0.890 times"
    assert memory.evidence == "multilora against lora@24: peak memory 2,120 against 2,000 MB, 1.06 times"
    compared["methods"]["lora@24"]["tokens_per_second"] = 0.0
    assert claim("throughput", None, [compared]).verdict == "not measured"
    fewer = results_without(results(), "lora@24")
    assert claim("memory", None, [fewer]).evidence == "no LoRA of equal total rank among the methods compared"


def benched(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> BenchRecord:
    content = bench_content()
    change(content)
    return BenchRecord.model_validate(content)


def resource_claims(compared: list[Any], bench: BenchRecord) -> tuple[Claim, Claim]:
    found = {claim.id: claim for claim in judge(None, compared, bench)}
    return found["throughput"], found["memory"]


def test_a_bench_judges_resources_whatever_a_comparison_says() -> None:
    compared = results()
    compared["methods"]["multilora"] |= {"tokens_per_second": 1.0, "peak_memory_bytes": 10**12}
    speed, memory = resource_claims([compared], benched())
    assert (speed.verdict, memory.verdict) == ("held", "held")
    assert speed.evidence == (
        "a bench of toy Llama: multilora@3x8 against lora@24, rows of 32: 1,100 against 1,000 tokens per second, 1.10 "
        "times within the rounds; multilora@3x8 against lora@24, rows of 64: 1,100 against 1,000 tokens per second, "
        "1.10 times within the rounds"
    )
    assert "rows of 64: peak" in memory.evidence
    assert "1.00 times" in memory.evidence


def test_a_bench_has_to_agree_at_every_length() -> None:
    def slow_and_large(content: dict[str, Any]) -> None:
        method = content["lengths"]["64"]["methods"]["multilora@3x8"]
        method["tokens_per_second"]["over_reference"]["median"] = 0.89
        method["bytes"]["peak"] = int(1.06 * content["lengths"]["64"]["methods"]["lora@24"]["bytes"]["peak"])

    speed, memory = resource_claims([], benched(slow_and_large))
    assert (speed.verdict, memory.verdict) == ("not held", "not held")
    assert "1.06 times" in memory.evidence


def test_a_bench_on_a_busy_machine_tells_of_bytes_alone() -> None:
    def busy(content: dict[str, Any]) -> None:
        content["lengths"]["64"]["load"]["others_cpu"] = 0.3

    compared = results()
    compared["methods"]["multilora"]["tokens_per_second"] = 890.0
    speed, memory = resource_claims([compared], benched(busy))
    assert (speed.verdict, memory.verdict) == ("not held", "held")
    assert speed.evidence.startswith("multilora against lora@24: 890")
    speed, _ = resource_claims([], benched(busy))
    assert (speed.verdict, speed.evidence) == (
        "not measured", "other processes took 30 % of the cores' time while a bench of toy Llama ran"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["multilora@3x8", "lora@24"])
def test_a_bench_without_both_methods_leaves_the_claims_to_comparisons(name: str) -> None:
    def without(content: dict[str, Any]) -> None:
        for at in content["lengths"].values():
            del at["methods"][name]

    compared = results()
    assert resource_claims([compared], benched(without))[0] == claim("throughput", None, [compared])


def test_means_and_most_matrices_of_most_seeds_have_to_agree() -> None:
    def positive(value: float) -> bool:
        return value > 0

    def verdict(*seeds: list[float]) -> str:
        found = tally([[(value,) for value in values] for values in seeds], positive)
        assert found is not None
        return found.verdict

    assert verdict([1, 1, -1]) == "held"
    assert verdict([1, 1, -9]) == "not held"  # the mean does not agree
    assert verdict([9, -1, -1]) == "not held"  # most matrices do not
    assert verdict([1, -1, 1], [1, 1, 1], [9, -1, -1]) == "held"
    assert verdict([9, -1, -1], [9, 9, 9], [9, -1, -1]) == "not held"  # in most seeds
    assert verdict([1, 1, 1], [5, -1]) == "not held"  # in one of two seeds
    assert tally([[], []], positive) is None


values = st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=5), min_size=1, max_size=4)


@given(values, st.randoms(use_true_random=False))
def test_a_tally_knows_no_order(seeds: list[list[float]], rng: random.Random) -> None:
    def count(of: list[list[float]]) -> Any:
        return tally([[(value,) for value in matrices] for matrices in of], lambda value: value > 0)

    expected = count(seeds)
    assert expected.matrices == sum(map(len, seeds))
    mixed = [rng.sample(matrices, len(matrices)) for matrices in rng.sample(seeds, len(seeds))]
    assert count(mixed) == expected


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.data())
def test_a_gap_is_the_mirror_image_of_the_other(first: list[float], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.floats(0, 1), min_size=len(first), max_size=len(first)))
    averages = {name: {"average": mean_over_seeds(of)} for name, of in (("a", first), ("b", second))}
    regime = RegimeResults(metrics={}, scores=averages)
    one, other = gap(regime, "a", "b"), gap(regime, "b", "a")
    assert not isinstance(one, str)
    assert not isinstance(other, str)
    assert one.low is not None
    assert other.high is not None
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high)
    assert one.low <= one.mean + 1e-12


def test_points_have_a_sign_and_zero_has_none() -> None:
    assert [signed_points(v) for v in (0.008, -0.01, 0.0, 0.0004, -0.0004)] == ["+0.8", "−1.0", "0.0", "0.0", "0.0"]


def test_roles_do_not_depend_on_the_order() -> None:
    methods = [
        Method("multilora@3x8:scaling=none", "multilora", 3, 8, 24, control=True),
        Method("multilora@3x8:scaling=scalar", "multilora", 3, 8, 24),
        Method("multilora@2x12", "multilora", 2, 12, 24),
        Method("lora@24:use_rslora=true", "lora", 1, 24, 24),
        Method("lora@24", "lora", 1, 24, 24),
        Method("lora@12", "lora", 1, 12, 12),
        Method("lora@4", "lora", 1, 4, 4),
        Method("full", "full"),
    ]
    for order in (methods, methods[::-1]):
        roles = roles_of(order)
        assert [m.name if m else None for m in (roles.multilora, roles.equal_lora, roles.small_lora, roles.full)] == [
            "multilora@2x12",
            "lora@24",
            "lora@12",
            "full",
        ]
        assert roles.lora == roles.equal_lora
    assert roles_of(methods[:1]).multilora == methods[0]  # a control where there is nothing else
    other = roles_of([methods[2], methods[6]])
    assert other.label("lora") == "LoRA of another rank (lora@4)"
    assert other.label("multilora") == "MultiLoRA (multilora@2x12)"


def test_a_real_analysis_is_judged(study: Path) -> None:
    data = json.loads((study / "out" / "analysis.json").read_text())
    compared = json.loads((study / "comparison" / "results.json").read_text())
    found = judge(data, [compared])
    by_id = verdicts(found)
    assert by_id["lora-zeros"] == "held"
    assert {id for id, verdict in by_id.items() if verdict == "not measured"} == {
        "score-mixed-r", "score-single-r", "score-single-equal", "score-single-full"
    }  # fmt: skip
    beside = Spectra(analysed(data)).beside("multilora", "lora")
    assert not isinstance(beside, str)
    assert [len(matrices) for matrices in beside.seeds] == [14, 14]
    assert not any("nan" in claim.evidence.split() for claim in found)
