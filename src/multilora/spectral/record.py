"""What analysis.json holds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from multilora.storage.record import Part, Record

Values = tuple[float | None, ...]  # None: infinite, or not a number
Grid = tuple[Values, ...]


class Vectors(Part):
    """How singular vectors were computed; `residual` is their largest relative error."""

    method: str
    residual: float | None


class Spectrum(Part):
    """Singular values of ΔW, at most 256 of them.

    Attributes:
        size: min(d_out, d_in): how many there are.
        rank: how many differ from zero.
        index: which are given, from 0.
        sigma: these, descending.
    """

    size: int
    rank: int
    index: tuple[int, ...]
    sigma: Values


class Histogram(Part):
    """Counts of singular values in tenths of decades.

    Attributes:
        first: number of the first bin, which begins at 10^(first / 10).
        counts: from that bin on.
        zeros: values that are zero.
    """

    first: int
    counts: tuple[int, ...]
    zeros: int


class Similarity(Part):
    """φ(i, j) to the reference's ΔW.

    Attributes:
        ranks: i, of the rows.
        reference_ranks: j, of the columns.
        left, right: on left and on right singular vectors.
    """

    ranks: tuple[int, ...]
    reference_ranks: tuple[int, ...]
    left: Grid
    right: Grid

    def on(self, side: Literal["left", "right"]) -> Grid:
        """φ on the singular vectors of one side."""
        return self.left if side == "left" else self.right


class Modules(Part):
    """How an adapter's modules relate, as `multilora.spectral.modules` computes it.

    Attributes:
        left, right: n × n similarities of their subspaces.
        random_left, random_right: what two random subspaces have on average.
        energy: each module's share.
        effective_rank: of each module.
        overlap: ‖ΔW‖²_F / Σ ‖ΔW_i‖²_F.
        scaling: distribution of each module's learned scale; None without a learned scale.
    """

    left: Grid
    right: Grid
    random_left: float
    random_right: float
    energy: Values
    effective_rank: Values
    overlap: float | None
    scaling: tuple[dict[str, float | None], ...] | None

    def similarity(self, side: Literal["left", "right"]) -> Grid:
        """Of the modules' subspaces on one side."""
        return self.left if side == "left" else self.right

    def random(self, side: Literal["left", "right"]) -> float:
        """What two random subspaces have on that side, on average."""
        return self.random_left if side == "left" else self.random_right


class Intruders(Part):
    """Intruder dimensions: how many `of` the top directions of W + ΔW are unlike all of W's.

    Attributes:
        cosine: below which a direction is one.
        best: each direction's largest |cos|.
    """

    count: int
    of: int
    cosine: float
    best: Values


class Mechanism(Part):
    """How ΔW relates to the base weight, as `multilora.spectral.mechanism` computes it.

    Attributes:
        ranks: for which the lists are given.
        delta, base, random: ‖UᵀWVᵀ‖_F with the directions of ΔW, of W and random ones.
        delta_norm: ‖UᵀΔWVᵀ‖_F.
        amplification: by which ΔW amplifies its directions.
        base_norm: ‖W‖_F.
        relative_norm: ‖ΔW‖_F / ‖W‖_F.
        intruders: None: not counted.
    """

    ranks: tuple[int, ...]
    delta: Values
    base: Values
    random: Values
    delta_norm: Values
    amplification: Values
    base_norm: float | None
    relative_norm: float | None
    intruders: Intruders | None = None


class MergeNumerics(Part):
    """What merging into a dtype loses: relative error, and share of entries that stay as they were."""

    error: float | None
    lost: float | None


class MatrixRecord(Part):
    """One ΔW of one run.

    Attributes:
        run: the run's name.
        layer: the base model's name of the layer.
        block: number of the block; None outside of blocks.
        projection: last part of the layer's name.
        d_out, d_in: of ΔW.
        measures: all that has one number for a matrix, by name.
        vectors: how they were computed.
        spectrum: singular values.
        histogram: of them.
        similarity: None: compared with no reference.
        modules: None: a plain LoRA, or full fine-tuning.
        mechanism: None: not compared with the base weight.
        numerics: of merging, by dtype; None: full fine-tuning, or not compared with the base weight.
    """

    run: str
    layer: str
    block: int | None
    projection: str
    d_out: int
    d_in: int
    measures: dict[str, float]
    vectors: Vectors
    spectrum: Spectrum
    histogram: Histogram
    similarity: Similarity | None
    modules: Modules | None
    mechanism: Mechanism | None
    numerics: dict[str, MergeNumerics] | None


class MeasureSummary(Part):
    """A measure over matrices; `count` have it."""

    mean: float
    median: float
    min: float
    max: float
    count: int


class AnalysedRun(Part):
    """One run.

    Attributes:
        method: in short, or as its comparison calls it.
        kind: multilora, lora or full.
        seed: of the training, in a comparison counted from 0; None if unknown.
        regime: `mixed`, or the only task; None if unknown.
        folder: the run's, or the adapter's or model's.
        comparison: folder of the comparison that it belongs to.
        reference: name of the run that it is compared with.
        num_loras, r, total_rank: of an adapter.
        recipe: resolved; None if unknown.
        weights_bytes: size of its weights.
        matrices: how many were analysed.
        total: measures over all of them.
        by_projection: and over those of each projection.
    """

    method: str
    kind: str
    seed: int | None
    regime: str | None
    folder: str
    comparison: str | None
    reference: str | None
    num_loras: int | None
    r: int | None
    total_rank: int | None
    recipe: dict[str, Any] | None
    weights_bytes: int
    matrices: int
    total: dict[str, MeasureSummary]
    by_projection: dict[str, dict[str, MeasureSummary]]


class Fault(Part):
    """A matrix that could not be analysed.

    Attributes:
        run: name of the run.
        layer: name of the layer.
        message: what is wrong.
    """

    run: str
    layer: str
    message: str


class AnalysisRecord(Record):
    """analysis.json.

    Attributes:
        versions: of packages.
        base: the base model as it was named; None: nothing was compared with one.
        settings: with which it was computed.
        notes: what the reader has to know besides.
        runs: by name.
        matrices: layer after layer, of each the runs.
        faults: what could not be analysed.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    INDENT: ClassVar[int | None] = None
    ASCII_ONLY: ClassVar[bool] = False

    versions: dict[str, str]
    base: str | None
    settings: dict[str, Any]
    notes: tuple[str, ...]
    runs: dict[str, AnalysedRun]
    matrices: tuple[MatrixRecord, ...]
    faults: tuple[Fault, ...] = Field(default=())
