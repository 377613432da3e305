"""The paper's claims, each with a criterion that is computed: held, not held, or not measured by these runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multilora.bench.record import AtLength, BenchRecord
from multilora.comparison.record import ComparedMethod, ComparisonResults
from multilora.report.numbers import percent, short
from multilora.report.pairing import Method, Roles, Spectra, benched_roles, compared_roles
from multilora.report.spectral_claims import spectral_claims
from multilora.report.verdicts import Claim, Outcome, gap, ratio, signed_points, together
from multilora.spectral.record import AnalysisRecord

__all__ = ["Claim", "judge"]

MARGIN = 0.01  # of a match, as a share
LEAST_SPEED, MOST_MEMORY = 0.9, 1.05

_PAPER, _OURS = "MultiLoRA, arXiv 2311.11501", "the fair control, of this project"


def judge(
    data: AnalysisRecord | None, results: Sequence[ComparisonResults], bench: BenchRecord | None = None
) -> list[Claim]:
    """All claims: about scores, about spectra, about resources.

    Claims about spectra hold if the means over all matrices and seeds agree, and more than half of the matrices in most
    seeds. Claims about scores hold by the 95 % interval of the paired difference. Claims about resources are judged by
    the bench alone where it has the methods (and, for speed on a CPU, had a quiet machine): it ran them in turns on one
    machine, while a comparison's trainings ran one after the other, each beside whatever else the machine did. They
    hold if they do at every length. A claim for which the runs lack data is "not measured".

    Args:
        data: the analysis; None if nothing was analysed.
        results: of comparisons.
        bench: what methods cost; None if not measured.
    """
    return [*_scores(results), *spectral_claims(Spectra(data)), *_resources(results, bench)]


def _scores(results: Sequence[ComparisonResults]) -> list[Claim]:
    others: list[tuple[str, str, str, Callable[[Roles], Method | None]]] = [
        ("equal", "LoRA of equal total rank n·r", _OURS, lambda roles: roles.equal_lora),
        ("r", "LoRA of one module's rank r", _PAPER, lambda roles: roles.small_lora),
        ("full", "full fine-tuning", _PAPER, lambda roles: roles.full),
    ]
    claims: list[Claim] = []
    for regime, trained in (("mixed", "trained on the mixture"), ("single", "trained on each task alone")):
        for key, other, source, pick in others:
            margin = MARGIN if key == "full" else 0.0
            verb = f"matches or exceeds {other}" if margin else f"scores above {other}"
            least = f"{signed_points(-margin)} points, the margin of a match" if margin else "zero"
            text = (
                f"MultiLoRA {verb} on the average of the tasks, {trained}: the 95 % interval of the mean difference "
                f"over seeds, paired, lies above {least}."
            )
            outcomes = [_score(found, regime, other, pick, margin) for found in results]
            claims.append(Claim(f"score-{regime}-{key}", text, source, *together(outcomes)))
    return claims


def _score(
    results: ComparisonResults, regime: str, other: str, pick: Callable[[Roles], Method | None], margin: float
) -> Outcome:
    roles = compared_roles(results)
    first, second = roles.multilora, pick(roles)
    if first is None or second is None:
        return "not measured", f"no {'MultiLoRA' if first is None else other} among the methods compared"
    if regime not in results.regimes:
        return "not measured", f"the regime {regime!r} was not run"
    found = gap(results.regimes[regime], first.name, second.name)
    if isinstance(found, str):
        return "not measured", found
    words = f"{first.name} minus {second.name}: {found.words()}"
    if found.low is None or found.high is None:
        return "not measured", words
    if found.low > -margin:
        return "held", words
    shown = found.high < -margin
    return "not held", words if shown else f"no {'match' if margin else 'difference'} shown: {words}"


def _resources(results: Sequence[ComparisonResults], bench: BenchRecord | None) -> list[Claim]:
    def slower(first: ComparedMethod, second: ComparedMethod) -> tuple[bool, str] | None:
        speeds = [method.tokens_per_second for method in (first, second)]
        found = ratio(*speeds)
        if found is None:
            return None
        words = f"{short(speeds[0])} against {short(speeds[1])} tokens per second, {short(found)} times"
        return found >= LEAST_SPEED, words

    def leaner(first: ComparedMethod, second: ComparedMethod) -> tuple[bool, str] | None:
        peaks = [method.peak_memory_bytes for method in (first, second)]
        found = ratio(*peaks)
        if found is None or peaks[0] is None or peaks[1] is None:
            return None
        words = f"peak memory {peaks[0] / 1e6:,.0f} against {peaks[1] / 1e6:,.0f} MB, {short(found)} times"
        return found <= MOST_MEMORY, words

    speed = (
        "MultiLoRA trains about as fast as LoRA of equal total rank: at least "
        f"{LEAST_SPEED:g} times as many tokens per second."
    )
    memory = (
        "MultiLoRA's memory does not grow with the number of modules beyond LoRA of equal total rank: peak memory at "
        f"most {MOST_MEMORY:g} times as large."
    )
    return [
        Claim(
            "throughput",
            speed,
            _PAPER,
            *(_benched_speed(bench) or _unless_busy(bench, [_resource(found, slower) for found in results])),
        ),
        Claim(
            "memory",
            memory,
            _OURS,
            *(_benched_memory(bench) or together([_resource(found, leaner) for found in results])),
        ),
    ]


def _benched_speed(bench: BenchRecord | None) -> Outcome | None:
    """None: the bench has not both methods, or not times that mean something."""
    if bench is None or not _times_count(bench) or not (pairs := _benched_pairs(bench)):
        return None
    outcomes: list[bool] = []
    words: list[str] = []
    for length, at, names in pairs:
        speeds = [at.methods[name].tokens_per_second.step for name in names]
        ratios = at.methods[names[0]].tokens_per_second.over_reference
        # Within the rounds where LoRA of equal rank is the reference; else of the medians.
        paired = ratios is not None and bench.reference == names[1]
        found = ratios.median if ratios is not None and paired else speeds[0] / speeds[1]
        outcomes.append(found >= LEAST_SPEED)
        words.append(
            f"{names[0]} against {names[1]}, rows of {length}: {short(speeds[0])} against {short(speeds[1])} tokens "
            f"per second, {short(found)} times{' within the rounds' if paired else ''}"
        )
    return "held" if all(outcomes) else "not held", f"{_of_bench(bench)}: {'; '.join(words)}"


def _benched_memory(bench: BenchRecord | None) -> Outcome | None:
    """None: the bench has not both methods."""
    if bench is None or not (pairs := _benched_pairs(bench)):
        return None
    outcomes: list[bool] = []
    words: list[str] = []
    for length, at, names in pairs:
        peaks = [at.methods[name].bytes.peak for name in names]
        if not (found := ratio(*peaks)):
            return None
        outcomes.append(found <= MOST_MEMORY)
        words.append(
            f"{names[0]} against {names[1]}, rows of {length}: peak {peaks[0] / 1e6:,.1f} against "
            f"{peaks[1] / 1e6:,.1f} MB, {short(found)} times"
        )
    return "held" if all(outcomes) else "not held", f"{_of_bench(bench)}: {'; '.join(words)}"


def _benched_pairs(bench: BenchRecord) -> list[tuple[int, AtLength, tuple[str, str]]]:
    """By length: MultiLoRA and LoRA of equal total rank, where both were measured."""
    found: list[tuple[int, AtLength, tuple[str, str]]] = []
    for length, at in bench.ordered:
        roles = benched_roles(at)
        if roles.multilora is not None and roles.equal_lora is not None:
            found.append((length, at, (roles.multilora.name, roles.equal_lora.name)))
    return found


def _unless_busy(bench: BenchRecord | None, outcomes: Sequence[Outcome]) -> Outcome:
    verdict, evidence = together(outcomes)
    if verdict == "not measured" and bench is not None and not _times_count(bench):
        took = "an unknown share" if bench.others_cpu is None else f"{percent(bench.others_cpu, 0)} %"
        return verdict, f"other processes took {took} of the cores' time while {_of_bench(bench)} ran"
    return verdict, evidence


def _times_count(bench: BenchRecord) -> bool:
    """On a CPU that others used meanwhile, no method is known to be slower than another."""
    return bench.is_quiet or bench.settings.device != "cpu"


def _of_bench(bench: BenchRecord) -> str:
    return f"a bench of {bench.model}"


def _resource(
    results: ComparisonResults, judged: Callable[[ComparedMethod, ComparedMethod], tuple[bool, str] | None]
) -> Outcome:
    roles = compared_roles(results)
    if roles.multilora is None or roles.equal_lora is None:
        missing = "MultiLoRA" if roles.multilora is None else "LoRA of equal total rank"
        return "not measured", f"no {missing} among the methods compared"
    names = roles.multilora.name, roles.equal_lora.name
    found = judged(*(results.methods[name] for name in names))
    if found is None:
        return "not measured", f"no training of {names[0]} and {names[1]} was measured"
    return "held" if found[0] else "not held", f"{names[0]} against {names[1]}: {found[1]}"
