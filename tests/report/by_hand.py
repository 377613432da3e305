"""An analysis and a comparison made by hand, in which everything is as the paper says; and ways to change them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from multilora.comparison.record import ComparisonResults
from multilora.comparison.statistics import mean_over_seeds
from multilora.spectral.measures import OF_SPECTRUM
from multilora.spectral.record import AnalysisRecord

SIZE, RANK, N = 64, 24, 3
SEEDS = 3
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj")
KINDS = {"full": "full", "lora@24": "lora", "multilora": "multilora"}
SECTIONS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora@8": {"name": "lora", "r": 8},
    "lora@24": {"name": "lora", "r": 24},
    "multilora": {"name": "multilora", "r": 8, "num_loras": 3, "scaling": "vector"},
}
# Of each method what differs between them; a matrix adds a little to each.
SPECTRA = {
    "full": {"effective_rank": 40.0, "energy_share_1": 0.1, "energy_share_8": 0.4, "gini": 0.3},
    "multilora": {"effective_rank": 20.0, "energy_share_1": 0.2, "energy_share_8": 0.6, "gini": 0.6},
    "lora@24": {"effective_rank": 10.0, "energy_share_1": 0.4, "energy_share_8": 0.8, "gini": 0.8},
}
SIMILARITY = {"multilora": 0.5, "lora@24": 0.2}
SCORES = {"full": 0.60, "multilora": 0.65, "lora@24": 0.62, "lora@8": 0.58}

Data = dict[str, Any]


def analysis(seeds: int = SEEDS, layers: tuple[str, ...] = LAYERS) -> Data:
    """The content of an analysis.json."""
    return {
        "format": 1,
        "versions": {},
        "base": "base",
        "settings": {},
        "notes": [],
        "runs": {f"{method} seed {seed}": _run(method, seed) for method in KINDS for seed in range(seeds)},
        "matrices": [
            matrix(method, seed, layer, 0.001 * number + 0.002 * seed)
            for method in KINDS
            for seed in range(seeds)
            for number, layer in enumerate(layers)
        ],
        "faults": [],
    }


def _run(method: str, seed: int) -> Data:
    section = SECTIONS[method]
    n, r = section.get("num_loras", 1), section.get("r")
    return {
        "method": method,
        "kind": KINDS[method],
        "seed": seed,
        "regime": "mixed",
        "folder": f"{method}-{seed}",
        "comparison": "comparison",
        "reference": None if method == "full" else f"full seed {seed}",
        "num_loras": None if r is None else n,
        "r": r,
        "total_rank": None if r is None else n * r,
        "recipe": {"method": section},
        "weights_bytes": 1000,
        "matrices": len(LAYERS),
        "total": {},
        "by_projection": {},
    }


def matrix(method: str, seed: int, layer: str, more: float) -> Data:
    """A record; `more` is added to its measures."""
    full, multilora = method == "full", method == "multilora"
    rank = SIZE if full else RANK
    polarised = {"full": 0.25, "multilora": 0.5, "lora@24": 0.75}[method]
    measures = {
        of.key: more + (polarised if of.polarised == "higher" else 1 - polarised)
        for of in OF_SPECTRUM
        if of.polarised is not None
    }
    measures |= {name: value + more for name, value in SPECTRA[method].items()}
    measures |= {"frobenius_norm": 1.0, "rank": float(rank), "zeros": float(SIZE - rank), "energy_share_32": 1.0}
    measures |= {"projection_delta_4": 2.0 + more, "projection_random_4": 1.0, "projection_base_4": 8.0 + more}
    measures |= {"amplification_4": 3.0 + more}
    if not full:
        for side in ("left", "right"):
            measures |= {f"similarity_{side}_{k}": SIMILARITY[method] + more for k in (1, 2, 4, 8, 16)}
        measures |= {"merge_error_bfloat16": 0.05 + more, "merge_lost_bfloat16": 0.1 + more}
    if multilora:
        measures |= {"module_similarity_left": 0.2 + more, "module_similarity_right": 0.2 + more}
        measures |= {"module_largest_energy": 0.4 + more}
    grid = {"ranks": [1, 2, 4], "reference_ranks": [1, 2], "left": [[0.5] * 2] * 3, "right": [[0.5] * 2] * 3}
    modules = {
        **{side: [[1.0 if i == j else 0.2 for j in range(N)] for i in range(N)] for side in ("left", "right")},
        "random_left": 8 / SIZE,
        "random_right": 8 / SIZE,
        "energy": [0.4, 0.3, 0.3],
        "effective_rank": [8.0] * N,
        "overlap": 1.0,
        "scaling": None,
    }
    return {
        "run": f"{method} seed {seed}",
        "layer": layer,
        "block": int(layer.split(".")[2]),
        "projection": layer.rpartition(".")[2],
        "d_out": SIZE,
        "d_in": SIZE,
        "measures": measures,
        "vectors": {"method": "exact", "residual": 0.0},
        "spectrum": {"size": SIZE, "rank": rank, "index": [0, 1, rank - 1], "sigma": [0.5, 0.25, 0.03]},
        "histogram": {"first": -15, "counts": [4, 14, 28, 14, 4], "zeros": 0}
        if full
        else {"first": -15, "counts": [8, 8, 8], "zeros": SIZE - RANK},
        "similarity": None if full else grid,
        "modules": modules if multilora else None,
        "mechanism": mechanism(2.0 + more, 8.0 + more, 3.0 + more),
        "numerics": None,
    }


def mechanism(*of_top: float) -> Data:
    """Of the four top directions: what W has in those of ΔW, and in its own, and the amplification; or of none."""
    delta, base, amplification = ([value] for value in of_top) if of_top else ([], [], [])
    return {
        "ranks": [4] if of_top else [],
        "delta": delta,
        "base": base,
        "random": [1.0] if of_top else [],
        "delta_norm": [1.0] if of_top else [],
        "amplification": amplification,
        "base_norm": 10.0,
        "relative_norm": 0.1 if of_top else 0.0,
    }


def results(seeds: int = SEEDS) -> Data:
    """The content of a comparison's results.json, with both regimes."""
    return {
        "recipe_hash": "0" * 16,
        "comparison_hash": "1" * 16,
        "limit": None,
        "methods": {
            method: {
                "section": section,
                "total_rank": None if method == "full" else section.get("num_loras", 1) * section["r"],
                "learning_rates": [0.01],
                "trials": [],
                "chosen": None,
                "trainable_parameters": 123_456,
                "tokens_per_second": 1000.0,
                "peak_memory_bytes": 2_000_000_000,
                "forgetting": asdict(mean_over_seeds([0.25] * seeds)),
            }
            for method, section in SECTIONS.items()
        },
        "regimes": {
            regime: {
                "metrics": {},
                "scores": {
                    method: {"average": scores(value, seeds)} for method, value in SCORES.items()
                },
                "differences": [
                    {
                        "method": "multilora",
                        "minus": "lora@24",
                        "seeds": seeds,
                        "tasks": {"average": {"mean": 0.03, "low": 0.01, "high": 0.05, "p_value": None}},
                    }
                ],
            }
            for regime in ("mixed", "single")
        },
    }  # fmt: skip


def analysed(data: Data | None) -> AnalysisRecord | None:
    """The record of such a content."""
    return None if data is None else AnalysisRecord.model_validate(data)


def compared_results(contents: Sequence[Data]) -> list[ComparisonResults]:
    """The records of such contents."""
    return [ComparisonResults.model_validate(content) for content in contents]


def scores(value: float, seeds: int = SEEDS) -> Data:
    """An average over tasks."""
    return asdict(mean_over_seeds([value + 0.001 * seed * (value < 0.6) for seed in range(seeds)]))


def swapped(data: Data) -> Data:
    """MultiLoRA has LoRA's numbers, and LoRA has MultiLoRA's."""
    found = copy.deepcopy(data)
    by_place = {(record["run"], record["layer"]): record for record in data["matrices"]}
    for record in found["matrices"]:
        method, _, rest = record["run"].partition(" ")
        if method == "full":
            continue
        other = by_place[f"{'lora@24' if method == 'multilora' else 'multilora'} {rest}", record["layer"]]
        for name, value in other["measures"].items():
            if name in record["measures"]:
                record["measures"][name] = value
    return found


def swapped_results(data: Data) -> Data:
    """MultiLoRA has the numbers of LoRA of equal rank, and that has MultiLoRA's."""
    found = copy.deepcopy(data)
    names = ("multilora", "lora@24")
    for regime in found["regimes"].values():
        of = regime["scores"]
        of[names[0]], of[names[1]] = of[names[1]], of[names[0]]
        for difference in regime["differences"]:
            average = difference["tasks"]["average"]
            average |= {"mean": -average["mean"], "low": -average["high"], "high": -average["low"]}
    return found


def without_full(data: Data) -> Data:
    """As if full fine-tuning had not been analysed."""
    found = copy.deepcopy(data)
    found["runs"] = {name: run | {"reference": None} for name, run in data["runs"].items() if run["kind"] != "full"}
    found["matrices"] = [
        record
        | {
            "similarity": None,
            "measures": {k: v for k, v in record["measures"].items() if not k.startswith("similarity")},
        }
        for record in found["matrices"]
        if not record["run"].startswith("full")
    ]
    return found


def results_without(data: Data, method: str) -> Data:
    """As if a method had not been compared."""
    found = copy.deepcopy(data)
    del found["methods"][method]
    for regime in found["regimes"].values():
        del regime["scores"][method]
        regime["differences"] = [d for d in regime["differences"] if method not in (d["method"], d["minus"])]
    return found


def changed(data: Data, of: Callable[[Data], bool], **measures: float) -> Data:
    """Other measures in the records for which `of` holds."""
    found = copy.deepcopy(data)
    for record in found["matrices"]:
        if of(record):
            record["measures"] |= measures
    return found


def zeroed(data: Data, method: str) -> Data:
    """The method's ΔW is zero everywhere, as the analysis says it then."""
    found = copy.deepcopy(data)
    for record in found["matrices"]:
        if record["run"].split(" ")[0] != method:
            continue
        for name in list(record["measures"]):
            if name.startswith(("projection", "amplification")):
                del record["measures"][name]
            else:
                record["measures"][name] = float(SIZE) if name == "zeros" else 0.0
        record["spectrum"] = {"size": SIZE, "rank": 0, "index": [], "sigma": []}
        record["histogram"] = {"first": 0, "counts": [], "zeros": SIZE}
        record["mechanism"] = mechanism()
        if record["similarity"] is not None:
            record["similarity"] = {"ranks": [], "reference_ranks": [1, 2], "left": [], "right": []}
        if record["modules"] is not None:
            record["modules"] |= {
                **{side: [[0.0] * N] * N for side in ("left", "right")},
                "random_left": 0.0,
                "random_right": 0.0,
                "energy": [0.0] * N,
                "effective_rank": [0.0] * N,
                "overlap": None,
            }
    return found
