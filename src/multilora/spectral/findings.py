"""What a measure of ΔW is, and what it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from multilora.spectral.record import MatrixRecord
from multilora.spectral.spectrum import numerical_rank


@dataclass(frozen=True)
class Findings:
    """What was computed of one ΔW, from which its measures follow.

    Attributes:
        S: (m,) singular values that may differ from zero, descending.
        shape: (d_out, d_in).
        top: how many singular vectors are compared at most.
        similarity: ranks, reference_ranks and the grids left and right of `similarity_grid`; None: no reference.
        modules: as `module_measures` returns them; None: not a MultiLoRA.
        scaling: the learned scale, (n, d_out) or (n,); None without a learned scale.
        mechanism: as `mechanism` returns it, with `intruders`; None: not compared with the base weight.
        numerics: by dtype, as `merge_error` returns it; None: not merged.
    """

    S: Tensor
    shape: tuple[int, int]
    top: int = 0
    similarity: Mapping[str, Any] | None = None
    modules: Mapping[str, Any] | None = None
    scaling: Tensor | None = None
    mechanism: Mapping[str, Any] | None = None
    numerics: Mapping[str, Any] | None = None

    @cached_property
    def nonzero(self) -> Tensor:
        """(rank,) the values that differ from zero, in fp64 on the CPU."""
        return self.S[: numerical_rank(self.S, self.shape)].double().cpu()

    def of_modules(self, name: str) -> Any:
        """What `module_measures` found, where there are several modules; None otherwise."""
        return self.modules[name] if self.modules is not None and len(self.modules["energy"]) > 1 else None


@dataclass(frozen=True)
class LayerMap:
    """How measures are drawn by layer: a cell for each block and projection, one panel for each method.

    Attributes:
        id: of the page's figure.
        file: name of the figure for papers.
        title: of the page's figure.
        control: what the reader chooses among the measures that share the map.
        drawn: key of the measure that the figure for papers shows; None: the first.
        top: value of the last colour; the first is 0.
        low, high: what these colours mean.
        note: below the figure.
    """

    id: str
    file: str
    title: str
    control: str = "measure"
    drawn: str | None = None
    top: float = 1.0
    low: str = "0"
    high: str = "1"
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """One number of a matrix.

    Attributes:
        key: its name in analysis.json and analysis.parquet.
        title: heading of a column, without the unit.
        formula: how it is computed, as text.
        of: computes it; None where the matrix does not have it.
        words: its name in a sentence; None: the title.
        format: a share is written in percent; fixed: two decimals in the console; significant: three digits.
        polarised: whether a spectrum with few strong directions has a higher or a lower value; None: neither.
        layer_map: its plot; None: it has none.
        option: what the map's control calls it; None: the title.
        source: the paper that defines it; None: elementary.
    """

    key: str
    title: str
    formula: str
    of: Callable[[Findings], float | None]
    words: str | None = None
    format: Literal["share", "fixed", "significant"] = "fixed"
    polarised: Literal["higher", "lower"] | None = None
    layer_map: LayerMap | None = None
    option: str | None = None
    source: str | None = None

    @property
    def unit(self) -> str:
        """A percent sign, or nothing."""
        return "%" if self.format == "share" else ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def name(self) -> str:
        """As a sentence calls it."""
        return self.words or self.title

    def value(self, record: MatrixRecord) -> float | None:
        """Of a matrix; None if it lacks the measure."""
        return record.measures.get(self.key)
