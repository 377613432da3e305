"""Spectra: means of curves and of histograms over matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multilora.report.numbers import array_of
from multilora.spectral.record import MatrixRecord


def mean_curve(records: Sequence[MatrixRecord]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The geometric mean of spectra, at the indices (from 0) at which all have a value above zero; empty: none have.

    Args:
        records: of matrices; those with ΔW = 0 are left out.
    """
    curves = [record.spectrum for record in records if record.spectrum.rank]
    if not curves:
        return np.zeros(0), np.zeros(0)
    last = min(curve.rank for curve in curves)
    index = np.array(sorted({at for curve in curves for at in curve.index if at < last}), dtype=np.float64)
    logs = [np.interp(index, curve.index, np.log(array_of(curve.sigma))) for curve in curves]
    return index, np.exp(np.mean(logs, axis=0))


def mean_histogram(records: Sequence[MatrixRecord]) -> tuple[int, NDArray[np.float64]]:
    """The first bin, in tenths of decades, and the mean counts from there on."""
    found = [record.histogram for record in records]
    filled = [histogram for histogram in found if histogram.counts]
    if not filled:
        return 0, np.zeros(0)
    first = min(histogram.first for histogram in filled)
    sums = np.zeros(max(histogram.first + len(histogram.counts) for histogram in filled) - first)
    for histogram in filled:
        start = histogram.first - first
        sums[start : start + len(histogram.counts)] += histogram.counts
    return first, sums / len(found)


def bin_edges(first: int, count: int) -> list[float]:
    """The count + 1 ends of a histogram's bins, from bin `first` on."""
    return [10 ** (edge / 10) for edge in range(first, first + count + 1)] if count else []


def percentages(counts: Sequence[float]) -> list[float]:
    """Counts as shares of their sum, in percent."""
    whole = sum(counts)
    return [100 * count / whole for count in counts]
