"""The claims about ΔW: its spectrum, its subspace, the modules it is made of, and what it does to W."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multilora.report.criteria import (
    is_bell,
    largest_module,
    module_similarities,
    near_fullest,
    open_shares,
    shared_similarity,
    top_amplification,
    top_projections,
)
from multilora.report.numbers import counted, percent, short, with_unit
from multilora.report.pairing import Role, Spectra, Values, measured
from multilora.report.verdicts import MINUS, Claim, Outcome, Tally, against, tally
from multilora.spectral.findings import Measure
from multilora.spectral.measures import EFFECTIVE_RANK, ENERGY_SHARES, GINI, SIDES, ZEROS, Side, merge_error, merge_lost
from multilora.spectral.record import MatrixRecord

MOST_ERROR = 0.1

_PAPER, _HU = "MultiLoRA, arXiv 2311.11501", "Hu et al. 2021, arXiv 2106.09685, section 7.3"
_ALL: Sequence[Role] = ("multilora", "lora", "full")
_NO_MECHANISM = "ΔW was not compared with the base weights"


def spectral_claims(spectra: Spectra) -> list[Claim]:
    """All of them, in the order of the paper."""
    return [
        Claim(
            "lora-polarised",
            "LoRA's ΔW is polarised on few top singular vectors: they hold a larger share of its energy than those of "
            "full fine-tuning's do, and its effective rank is lower.",
            _PAPER,
            *_compared(spectra, ("lora", "full"), _polarised),
        ),
        Claim(
            "lora-zeros",
            f"At least min(d_out, d_in) {MINUS} r singular values of LoRA's ΔW are zero, in every matrix.",
            _PAPER,
            *_zeros(spectra),
        ),
        Claim(
            "full-bell",
            "Full fine-tuning's spectrum is flat and bell-shaped: in the histogram of log10 σ by tenths of decades, "
            "the fullest bin is at least twice as full as the first and as the last one, and more than half of all "
            "singular values, zeros included, lie within half a decade of it.",
            _PAPER,
            *_bell(spectra),
        ),
        Claim(
            "between",
            "MultiLoRA's spectrum lies between LoRA's and full fine-tuning's, by effective rank, energy shares and "
            "Gini coefficient.",
            _PAPER,
            *_compared(spectra, _ALL, lambda of: _between, GINI),
        ),
        Claim(
            "nearer",
            "MultiLoRA's spectrum is nearer to full fine-tuning's than LoRA's is, by effective rank, energy shares and "
            "Gini coefficient.",
            _PAPER,
            *_compared(spectra, _ALL, lambda of: _nearer, GINI),
        ),
        *(
            Claim(
                f"subspace-{side}",
                "MultiLoRA's subspace is more similar to full fine-tuning's than LoRA's is: φ(k, k) of the "
                f"{side} singular vectors, averaged over those of the ranks k = 1, 2, 4, …, 64 that both have.",
                _PAPER,
                *_similarity(spectra, side),
            )
            for side in SIDES
        ),
        Claim(
            "modules-differ",
            "MultiLoRA's modules differ from one another: the mean similarity φ of two modules' subspaces, left and "
            "right, is nearer to that of random subspaces of rank r in d dimensions, r/d, than to 1: below "
            "(1 + r/d)/2.",
            _PAPER,
            *_modules_differ(spectra),
        ),
        Claim(
            "modules-balanced",
            "No module dominates: the largest share of a module in the n modules' energy is nearer to 1/n than to 1: "
            "below (1 + 1/n)/2.",
            _PAPER,
            *_modules_balanced(spectra),
        ),
        Claim(
            "mechanism-directions",
            "MultiLoRA's ΔW lies in directions that W has but does not emphasise: the projection of W on ΔW's 4 top "
            "singular directions (all, where it has fewer) is above that on random ones and below that on W's own.",
            _HU,
            *_directions(spectra),
        ),
        Claim(
            "mechanism-amplification",
            "MultiLoRA's ΔW amplifies these directions: ‖ΔW‖ is larger than the projection of W on them.",
            _HU,
            *_amplification(spectra),
        ),
        Claim(
            "mergeable",
            "MultiLoRA merges into the base weight: in fp32 the merged weight is W + ΔW up to its rounding; in bf16, "
            f"which is judged here, rounding changes it by less than {percent(MOST_ERROR, 0)} % of ‖ΔW‖.",
            _PAPER,
            *_merged(spectra),
        ),
    ]


def _polarised(of: Measure) -> Callable[[float, float], bool]:
    return (lambda lora, full: lora > full) if of.polarised == "higher" else (lambda lora, full: lora < full)


def _between(multilora: float, lora: float, full: float) -> bool:
    return min(lora, full) < multilora < max(lora, full)


def _nearer(multilora: float, lora: float, full: float) -> bool:
    return abs(multilora - full) < abs(lora - full)


def _compared(
    spectra: Spectra, roles: Sequence[Role], agrees: Callable[[Measure], Callable[..., bool]], *more: Measure
) -> Outcome:
    """Whether effective rank, energy shares and `more` all agree."""
    found = spectra.beside(*roles)
    if isinstance(found, str):
        return "not measured", found
    parts: list[str] = []
    held = True
    for of in (EFFECTIVE_RANK, *(ENERGY_SHARES[k] for k in open_shares(found)), *more):
        one = tally(found.values(measured(of)), agrees(of))
        if one is None:
            return "not measured", f"the analysis has no {of.name}"
        held &= one.verdict == "held"
        parts.append(f"{of.name} {against([with_unit(of, mean) for mean in one.means])} ({one.agree()})")
    parts.append(counted(len(found.seeds), "seed"))
    return "held" if held else "not held", f"{against(found.labels)}: {'; '.join(parts)}"


def _zeros(spectra: Spectra) -> Outcome:
    found = spectra.beside("lora")
    if isinstance(found, str):
        return "not measured", found
    pairs = [
        (int(ZEROS.value(record) or 0), max(0, record.spectrum.size - run.total_rank))
        for (run,), matrices in zip(found.runs, found.seeds, strict=True)
        for (record,) in matrices
        if run.total_rank is not None and run.one_rank
    ]
    if not pairs:
        return "not measured", f"{found.labels[0]} has other ranks in some layers"
    agreeing = sum(zeros >= least for zeros, least in pairs)
    zeros, least = (sum(column) for column in zip(*pairs, strict=True))
    return "held" if agreeing == len(pairs) else "not held", (
        f"{found.labels[0]}: in {agreeing:,} of {counted(len(pairs), 'matrix', 'matrices')}, "
        f"{counted(len(found.seeds), 'seed')}; {zeros:,} zeros in all, where the rank asks for at least {least:,}"
    )


def _judged(
    spectra: Spectra,
    roles: Sequence[Role],
    values: Callable[..., Values | None],
    agrees: Callable[..., bool],
    words: Callable[[Tally], str],
    missing: str,
) -> Outcome:
    """The verdict over matrices and seeds.

    Args:
        spectra: the runs.
        roles: that are needed.
        values: of a matrix's records.
        agrees: do such values agree with the claim?
        words: the evidence.
        missing: why no matrix has the values.
    """
    found = spectra.beside(*roles)
    if isinstance(found, str):
        return "not measured", found
    one = tally(found.values(values), agrees)
    if one is None:
        return "not measured", missing
    return one.verdict, f"{against(found.labels)}: {words(one)}"


def _bell(spectra: Spectra) -> Outcome:
    def values(record: MatrixRecord) -> Values:
        return float(is_bell(record.histogram)), near_fullest(record.histogram)

    def words(one: Tally) -> str:
        share = percent(one.means[1])
        return f"{one.where()}; on average {share} % of the values lie within half a decade of the fullest bin"

    return _judged(spectra, ("full",), values, lambda bell, near: bell > 0.5, words, "there is no spectrum")


def _similarity(spectra: Spectra, side: Side) -> Outcome:
    def values(multilora: MatrixRecord, lora: MatrixRecord) -> Values | None:
        return shared_similarity(multilora, lora, side)

    def words(one: Tally) -> str:
        return f"similarity {short(one.means[0])} against {short(one.means[1])}, higher {one.where()}"

    roles: Sequence[Role] = ("multilora", "lora")
    full, found = spectra.beside("full"), spectra.beside(*roles)
    if isinstance(full, str):
        return "not measured", full
    if not isinstance(found, str) and not found.compared_with_full:
        return "not measured", "subspaces were not compared with full fine-tuning's"
    missing = "the subspaces have no rank in common"
    return _judged(spectra, roles, values, lambda multilora, lora: multilora > lora, words, missing)


def _modules_differ(spectra: Spectra) -> Outcome:
    def agrees(left: float, random_left: float, right: float, random_right: float) -> bool:
        return left < (1 + random_left) / 2 and right < (1 + random_right) / 2

    def words(one: Tally) -> str:
        left, random_left, right, random_right = map(short, one.means)
        return (
            f"similarity {left} left and {right} right, of random subspaces {random_left} and {random_right}; "
            f"nearer to random {one.where()}"
        )

    missing = "no matrix has two modules whose subspaces could differ"
    return _judged(spectra, ("multilora",), module_similarities, agrees, words, missing)


def _modules_balanced(spectra: Spectra) -> Outcome:
    def words(one: Tally) -> str:
        share, even = map(percent, one.means)
        return f"the largest share is {share} % on average, 1/n is {even} %; nearer to 1/n {one.where()}"

    missing = "no matrix has two modules with energy"
    return _judged(spectra, ("multilora",), largest_module, lambda share, even: share < (1 + even) / 2, words, missing)


def _directions(spectra: Spectra) -> Outcome:
    def words(one: Tally) -> str:
        delta, base = map(short, one.means)
        return f"{delta} times the projection on random directions, that on W's own is {base} times; {one.where()}"

    def agrees(delta: float, base: float) -> bool:
        return 1 < delta < base

    return _judged(spectra, ("multilora",), top_projections, agrees, words, _NO_MECHANISM)


def _amplification(spectra: Spectra) -> Outcome:
    def words(one: Tally) -> str:
        return f"‖ΔW‖ is {short(one.means[0])} times the projection on average, above 1 {one.where()}"

    return _judged(spectra, ("multilora",), top_amplification, lambda factor: factor > 1, words, _NO_MECHANISM)


def _merged(spectra: Spectra) -> Outcome:
    def words(one: Tally) -> str:
        error, lost = map(percent, one.means)
        return (
            f"the error is {error} % of ‖ΔW‖ on average, below {percent(MOST_ERROR, 0)} % {one.where()}; {lost} % of "
            "the entries stay as they were"
        )

    values = measured(merge_error("bfloat16"), merge_lost("bfloat16"))
    return _judged(spectra, ("multilora",), values, lambda error, lost: error < MOST_ERROR, words, _NO_MECHANISM)
