"""What the runs show, in plain sentences, each computed from the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean

from multilora.comparison.record import AVERAGE, ComparisonResults, RegimeResults
from multilora.report.criteria import (
    largest_module,
    module_similarities,
    open_shares,
    shared_similarity,
    top_amplification,
    top_projections,
)
from multilora.report.numbers import counted, listed, percent, short
from multilora.report.pairing import NAMES, Method, Role, Roles, Spectra, Values, compared_roles, measured
from multilora.report.verdicts import MINUS, Gap, gap, ratio, signed_points, tally
from multilora.spectral.measures import EFFECTIVE_RANK, ENERGY_SHARES, SIDES, ZEROS, merge_error, merge_lost
from multilora.spectral.record import AnalysisRecord, MatrixRecord

_REGIMES = {"mixed": "Trained on the mixture", "single": "Trained on each task alone"}
_EVERY: Sequence[Role] = ("multilora", "lora", "full")


def sentences(data: AnalysisRecord | None, results: Sequence[ComparisonResults]) -> list[str]:
    """Results, spectra, subspaces, modules, mechanism, merging, resources and forgetting, in this order.

    At most 14 sentences where there is one comparison. Sentences without data are left out.

    Args:
        data: the analysis; None if nothing was analysed.
        results: of comparisons.

    Returns:
        Plain text.
    """
    spectra = Spectra(data)
    found: list[str | None] = []
    for number, compared in enumerate(results, 1):
        found += _of_comparison(number, len(results), _scores(compared))
    found += [
        _effective_rank(spectra),
        _energy(spectra),
        _zeros(spectra),
        _subspace(spectra),
        _modules(spectra),
        _mechanism(spectra),
        _merging(spectra),
    ]
    for number, compared in enumerate(results, 1):
        found += _of_comparison(number, len(results), (_resources(compared), _forgetting(compared)))
    return [text for text in found if text is not None]


def _of_comparison(number: int, of: int, texts: Iterable[str | None]) -> Iterator[str]:
    """The sentences, which name the comparison where there are several."""
    for text in texts:
        if text is not None:
            yield f"Comparison {number:,}: {text}" if of > 1 else text


def _scores(results: ComparisonResults) -> Iterator[str]:
    roles = compared_roles(results)
    for name, words in _REGIMES.items():
        if (regime := results.regimes.get(name)) is None:
            continue
        for text in (_best(regime), _differences(regime, roles)):
            if text is not None:
                yield f"{words}, {text}"


def _best(regime: RegimeResults) -> str | None:
    """The method with the highest average, and the next."""
    averages = {name: scores[AVERAGE] for name, scores in regime.scores.items() if scores}
    if not averages:
        return None
    order = sorted(averages, key=lambda name: (-averages[name].mean, name))
    first = averages[order[0]]
    equals = [name for name in order if averages[name].mean == first.mean]
    seeds = counted(len(first.values), "seed")
    interval = ""
    if len(equals) == 1 and first.low is not None and first.high is not None:
        interval = f"95 % interval {_signless(first.low)} to {_signless(first.high)}, "
    verb = "has the best average" if len(equals) == 1 else "share the best average"
    text = f"{listed(equals)} {verb} over tasks, {percent(first.mean)} % ({interval}{seeds})"
    if len(equals) < len(order):
        follower = order[len(equals)]
        text += f"; next is {follower} with {percent(averages[follower].mean)} %"
    return f"{text}."


def _signless(share: float) -> str:
    return percent(share).replace("-", MINUS)


def _differences(regime: RegimeResults, roles: Roles) -> str | None:
    """MultiLoRA against everything that the paper or fairness sets beside it."""
    others: Sequence[tuple[Method | None, str]] = (
        (roles.equal_lora, "LoRA of equal total rank"),
        (roles.small_lora if roles.small_lora != roles.equal_lora else None, "LoRA of one module's rank"),
        (roles.full, "full fine-tuning"),
    )
    parts = [
        part
        for other, what in others
        if roles.multilora is not None and other is not None
        if (part := _difference(gap(regime, roles.multilora.name, other.name), other, what)) is not None
    ]
    return f"MultiLoRA scores on average {listed(parts)}." if parts else None


def _difference(found: Gap | str, other: Method, what: str) -> str | None:
    if isinstance(found, str):
        return None
    points = signed_points(abs(found.mean)).removeprefix("+")
    noun, side = "point" if points == "1.0" else "points", "above" if found.mean > 0 else "below"
    where = "the same as" if points == "0.0" else f"{points} {noun} {side}"
    return f"{where} {_named(other, what)} ({_certainty(found)})"


def _named(method: Method, what: str) -> str:
    return f"{what} ({method.name})" if method.name != method.kind else what


def _certainty(found: Gap) -> str:
    if found.low is None or found.high is None:
        return "one seed, so chance is unknown"
    interval = f"95 % interval {signed_points(found.low)} to {signed_points(found.high)}"
    if found.low <= 0 <= found.high:
        interval = f"no difference shown, {interval}"
    return f"{interval}, {counted(found.seeds, 'seed')}"


def _effective_rank(spectra: Spectra) -> str | None:
    found = spectra.beside("multilora", "lora")
    if isinstance(found, str):
        return None
    one = tally(found.values(measured(EFFECTIVE_RANK)), lambda multilora, lora: multilora < lora)
    times = ratio(*one.means) if one is not None else None
    if one is None or times is None:
        return None
    lower = f"it is lower in {one.agreeing:,}" if one.agreeing else "it is lower in none"
    matrices = counted(one.matrices, "matrix", "matrices")
    return (
        f"MultiLoRA's effective rank is {short(times)} times that of {found.labels[1]} on average; {lower} of "
        f"{matrices} ({counted(one.seeds, 'seed')})."
    )


def _of_each(spectra: Spectra, value: Callable[[MatrixRecord], float]) -> str | None:
    """The mean share over all matrices for each role there is: 14.2 % with MultiLoRA and 8.9 % with LoRA."""
    parts: list[str] = []
    for role in _EVERY:
        found = spectra.beside(role)
        if not isinstance(found, str):
            share = fmean(value(record) for matrices in found.seeds for (record,) in matrices)
            parts.append(f"{percent(share)} % with {NAMES[role]}")
    return listed(parts) if parts else None


def _energy(spectra: Spectra) -> str | None:
    found = [beside for role in _EVERY if not isinstance(beside := spectra.beside(role), str)]
    shared = set.intersection(*(set(open_shares(beside)) for beside in found)) if found else set[int]()
    if not (top := max(shared & {1, 8}, default=0)):
        return None
    which = "its largest singular value" if top == 1 else f"its {top} largest singular values"
    shares = _of_each(spectra, lambda record: ENERGY_SHARES[top].value(record) or 0.0)
    return f"The share of ΔW's energy in {which} is {shares}, on average."


def _zeros(spectra: Spectra) -> str | None:
    shares = _of_each(spectra, lambda record: (ZEROS.value(record) or 0.0) / max(1, record.spectrum.size))
    return f"The share of ΔW's singular values that are zero is {shares}, on average." if shares else None


def _subspace(spectra: Spectra) -> str | None:
    found = spectra.beside("multilora", "lora")
    if isinstance(found, str) or not found.compared_with_full:
        return None
    left, right = (
        tally(found.values(partial(shared_similarity, side=side)), lambda one, two: one > two) for side in SIDES
    )
    if left is None or right is None:
        return None
    return (
        f"The similarity of MultiLoRA's subspaces to full fine-tuning's is {short(left.means[0])} (left) and "
        f"{short(right.means[0])} (right) on average, that of {found.labels[1]} {short(left.means[1])} and "
        f"{short(right.means[1])}; MultiLoRA's is higher in {left.agreeing:,} and {right.agreeing:,} of "
        f"{counted(left.matrices, 'matrix', 'matrices')}."
    )


def _of_multilora(spectra: Spectra, values: Callable[..., Values | None]) -> Values | None:
    """The means over all of MultiLoRA's matrices that have the values."""
    found = spectra.beside("multilora")
    one = None if isinstance(found, str) else tally(found.values(values), lambda *values: True)
    return one.means if one is not None else None


def _modules(spectra: Spectra) -> str | None:
    similar, largest = (_of_multilora(spectra, values) for values in (module_similarities, largest_module))
    if similar is None or largest is None:
        return None
    left, random_left, right, random_right = map(short, similar)
    return (
        f"Two of MultiLoRA's modules have a similarity of {left} (left) and {right} (right) on average, where random "
        f"subspaces have {random_left} and {random_right}; the strongest module holds {percent(largest[0])} % of the "
        f"modules' energy, where an even share is {percent(largest[1])} %."
    )


def _mechanism(spectra: Spectra) -> str | None:
    projections, factor = (_of_multilora(spectra, values) for values in (top_projections, top_amplification))
    if projections is None or factor is None:
        return None
    return (
        f"In the top directions of MultiLoRA's ΔW, W is {short(projections[0])} times as large as in random ones, and "
        f"{short(projections[1])} times in its own top directions; ‖ΔW‖ is {short(factor[0])} times what W has there, "
        "on average."
    )


def _merging(spectra: Spectra) -> str | None:
    found = _of_multilora(spectra, measured(merge_error("bfloat16"), merge_lost("bfloat16")))
    if found is None:
        return None
    return (
        f"Merging MultiLoRA into bf16 weights has an error of {percent(found[0])} % of ‖ΔW‖ on average, and leaves "
        f"{percent(found[1])} % of the entries that ΔW changes as they were."
    )


def _resources(results: ComparisonResults) -> str | None:
    roles = compared_roles(results)
    if roles.multilora is None:
        return None
    own = results.methods[roles.multilora.name]
    speed, count = own.tokens_per_second, own.trainable_parameters
    if speed is None or count is None:
        return None
    text = f"MultiLoRA trains {counted(count, 'parameter')} at {short(speed)} tokens per second"
    if roles.equal_lora is not None:
        other = results.methods[roles.equal_lora.name]
        faster = ratio(speed, other.tokens_per_second)
        larger = ratio(own.peak_memory_bytes, other.peak_memory_bytes)
        if faster is not None and larger is not None:
            what = _named(roles.equal_lora, "LoRA of equal total rank")
            text += f", {short(faster)} times as fast as {what}, with {short(larger)} times its peak memory"
    return f"{text}."


def _forgetting(results: ComparisonResults) -> str | None:
    roles = compared_roles(results)
    parts = [
        f"{_signed(forgetting.mean)} with {_named(method, NAMES[role])}"
        for role in _EVERY
        if (method := roles.of(role)) is not None
        and (forgetting := results.methods[method.name].forgetting) is not None
    ]
    return f"The loss on general text changes by {listed(parts)}, in nats per token." if parts else None


def _signed(value: float) -> str:
    text = short(abs(value))
    return text if value == 0 else f"{'+' if value > 0 else MINUS}{text}"
