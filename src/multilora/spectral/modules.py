"""Among the n modules of one MultiLoRA adapter: are their subspaces alike, who has the energy, what is the scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multilora.spectral.spectrum import effective_rank, numerical_rank, stable_rank
from multilora.spectral.subspace import subspace_similarity
from multilora.tuner.factors import Factors
from multilora.tuner.svd import factors_svd

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def module_factors(folded: Factors, num_loras: int) -> list[Factors]:
    """The folded factors of each module, A_i (r, d_in) and B'_i (d_out, r), with ΔW = Σ B'_i A_i.

    Args:
        folded: of the whole adapter, as `Factors.folded` gives them.
        num_loras: n.
    """
    return list(map(Factors, folded.lora_A.chunk(num_loras), folded.lora_B.chunk(num_loras, dim=1)))


def module_measures(modules: Sequence[Factors], dtype: torch.dtype, total_energy: float) -> dict[str, Any]:
    """How the modules relate to each other.

    Args:
        modules: folded factors of each of the n modules.
        dtype: float32 or float64, of the computation.
        total_energy: ‖ΔW‖²_F of the whole.

    Returns:
        left, right: n × n, φ(r_i, r_j) of modules i and j, on left and on right singular vectors, r_i the numerical
            rank of module i. Two random subspaces have r / d on average.
        random_left, random_right: that average for the modules' largest rank.
        energy: n shares ‖ΔW_i‖²_F / Σ_j ‖ΔW_j‖²_F; 0 where all are zero.
        effective_rank: of each module's ΔW_i.
        overlap: ‖ΔW‖²_F / Σ_i ‖ΔW_i‖²_F: 1 where the modules are orthogonal, up to n where they add up, below 1 where
            they cancel.
    """
    lefts: list[Tensor] = []
    rights: list[Tensor] = []
    energies: list[float] = []
    ranks: list[float] = []
    for factors in modules:
        U, S, Vh = factors_svd(factors, dtype=dtype)
        rank = numerical_rank(S, (factors.d_out, factors.d_in))
        lefts.append(U[:, :rank])
        rights.append(Vh[:rank].t())
        energies.append(stable_rank(S) * float(S[0]) ** 2)
        ranks.append(effective_rank(S[:rank]))
    whole = sum(energies)
    widest = max(left.shape[1] for left in lefts)
    return {
        "left": _pairwise(lefts),
        "right": _pairwise(rights),
        "random_left": widest / len(lefts[0]),
        "random_right": widest / len(rights[0]),
        "energy": [energy / whole if whole else 0.0 for energy in energies],
        "effective_rank": ranks,
        "overlap": total_energy / whole if whole else 0.0,
    }


def scaling_distribution(scaling: Tensor) -> list[dict[str, float]]:
    """Of each module's learned scale: mean, standard deviation, mean size, extremes and quantiles.

    Args:
        scaling: (n, d_out), or (n,) where each module has one number.
    """
    found: list[dict[str, float]] = []
    for values in scaling.double().reshape(len(scaling), -1):
        quantiles = torch.quantile(values, torch.tensor(QUANTILES, dtype=torch.float64))
        found.append(
            {
                "mean": float(values.mean()),
                "std": float(values.std(correction=0)),
                "mean_abs": float(values.abs().mean()),
                "min": float(values.min()),
                "max": float(values.max()),
                **{f"q{round(100 * q):02}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
            }
        )
    return found


def _pairwise(bases: Sequence[Tensor]) -> list[list[float]]:
    return [[subspace_similarity(one, two, one.shape[1], two.shape[1]) for two in bases] for one in bases]
