"""The analysis of a large model as analysis.json has it, its numbers drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from multilora.spectral.findings import Findings
from multilora.spectral.measures import measures_of
from multilora.spectral.record import AnalysisRecord
from multilora.spectral.spectrum import curve_indices, decade_histogram
from multilora.spectral.subspace import grid_ranks

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
RANKS = {"full": 4096, "lora@96": 96, "multilora@3x32": 96}


def large_analysis(blocks: int = 32) -> AnalysisRecord:
    """Full fine-tuning, LoRA and MultiLoRA of a model of the LLaMA-7B shapes."""
    rng = np.random.default_rng(0)
    content = {
        "format": 1,
        "versions": {"multilora": "0.1.0", "torch": "2"},
        "base": "llama-7b",
        "settings": {"top": 64},
        "notes": [],
        "runs": {method: _run(method) for method in RANKS},
        "matrices": [
            _matrix(rng, method, block, layer) for block in range(blocks) for layer in SHAPES for method in RANKS
        ],
        "faults": [],
    }
    return AnalysisRecord.model_validate(content)


def _run(method: str) -> dict[str, Any]:
    kind = method.partition("@")[0]
    return {
        "method": method,
        "kind": kind,
        "seed": None,
        "regime": None,
        "folder": method,
        "comparison": None,
        "reference": None if kind == "full" else "full",
        "num_loras": {"full": None, "lora": 1, "multilora": 3}[kind],
        "r": {"full": None, "lora": 96, "multilora": 32}[kind],
        "total_rank": RANKS[method],
        "recipe": None,
        "weights_bytes": 10**8,
        "matrices": 0,
        "total": {},
        "by_projection": {},
    }


def _matrix(rng: np.random.Generator, method: str, block: int, layer: str) -> dict[str, Any]:
    shape, rank = SHAPES[layer], RANKS[method]
    S = torch.from_numpy(np.sort(10 ** rng.normal(-2, 0.4, rank))[::-1].copy())
    first, counts = decade_histogram(S)
    index = curve_indices(rank)
    measures = measures_of(Findings(S, shape))
    ranks = grid_ranks(min(64, rank))
    grids = {side: rng.random((len(ranks), len(ranks))).round(7).tolist() for side in ("left", "right")}
    if method != "full":
        measures |= {f"similarity_{side}_{k}": float(rng.random()) for side in grids for k in ranks}
    measures |= {f"{name}_{r}": float(rng.random()) for name in _MECHANISM for r in (4, 16, 64)}
    measures |= {f"merge_{kind}_{dtype}": 0.1 for kind in ("error", "lost") for dtype in ("bfloat16", "float16")}
    quantiles = dict.fromkeys(("mean", "std", "mean_abs", "min", "max", "q05", "q25", "q50", "q75", "q95"), 0.123)
    modules = {
        **{side: np.eye(3).tolist() for side in ("left", "right")},
        "random_left": 0.01,
        "random_right": 0.01,
        "energy": [0.3, 0.3, 0.4],
        "effective_rank": [20.0] * 3,
        "overlap": 1.0,
        "scaling": [quantiles] * 3,
    }
    return {
        "run": method,
        "layer": f"model.layers.{block}.{layer}",
        "block": block,
        "projection": layer.rpartition(".")[2],
        "d_out": shape[0],
        "d_in": shape[1],
        "measures": measures,
        "vectors": {"method": "exact", "residual": 0.0},
        "spectrum": {"size": min(shape), "rank": rank, "index": index, "sigma": S[index].tolist()},
        "histogram": {"first": first, "counts": counts, "zeros": min(shape) - rank},
        "similarity": None if method == "full" else {"ranks": ranks, "reference_ranks": ranks, **grids},
        "modules": modules if method.startswith("multi") else None,
        "mechanism": {
            "ranks": [4, 16, 64],
            **dict.fromkeys(("delta", "base", "random", "delta_norm", "amplification"), [0.5] * 3),
            "base_norm": 50.0,
            "relative_norm": 0.02,
        },
        "numerics": None,
    }


_MECHANISM = ("projection_delta", "projection_base", "projection_random", "amplification")
