"""bench.json: written and read by one class, and checked, because a user may give any file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from multilora.errors import InputError
from multilora.storage.record import Part, Record

FORMAT = 2
RESULTS = "bench.json"
BUSY = 0.02  # share of the cores' time that others may take while times still count as a quiet machine's
KINDS = ("weights", "activations", "gradients", "optimizer")  # of bytes

_MOST = 10**18
Count = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
Positive = Annotated[int, Field(ge=1, le=_MOST, strict=True)]
Speed = Annotated[float, Field(gt=0, le=_MOST)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Length = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]


class _Part(Part):
    model_config = ConfigDict(allow_inf_nan=False)


class KindBytes(_Part):
    """Memory of a training step by kind.

    Attributes:
        weights: parameters and buffers, the base's among them.
        activations: what the graph keeps from forward for backward.
        gradients: of what is trained.
        optimizer: its state.
        peak: most bytes alive at once in a step, on a GPU as its allocator counts them, elsewhere as tensors.
    """

    weights: Count
    activations: Count
    gradients: Count
    optimizer: Count
    peak: Count


class Ratios(_Part):
    """Ratios of the times within each round: median, quartiles and minimum."""

    median: Speed
    q1: Speed
    q3: Speed
    min: Speed | None = None


class Speeds(_Part):
    """Tokens per second.

    Attributes:
        forward, step: of a forward pass, of forward, backward and the optimizer's step; medians over the rounds.
        rounds: how many.
        over_reference: how many times the reference's the step's are.
    """

    forward: Speed
    step: Speed
    rounds: Positive
    over_reference: Ratios | None


class MethodCosts(_Part):
    """Costs of one method at one length.

    Attributes:
        kind: which method it is.
        num_loras, r: of an adapter.
        trainable_parameters: a count.
        adapter_bytes: None if it has no adapter.
        bytes: memory by kind.
        tokens_per_second: speed.
    """

    kind: Literal["frozen", "full", "lora", "multilora"]
    num_loras: Positive | None
    r: Positive | None
    trainable_parameters: Count
    adapter_bytes: Count | None
    bytes: KindBytes
    tokens_per_second: Speeds

    @property
    def total_rank(self) -> int | None:
        """n·r; None if the method has no adapter."""
        return None if self.num_loras is None or self.r is None else self.num_loras * self.r


class Busy(_Part):
    """How busy other processes kept the machine: their share of all cores' time, None if unknown; load averages."""

    load_average_before: list[float] | None = None
    load_average_after: list[float] | None = None
    others_cpu: Annotated[float, Field(ge=0)] | None


class AtLength(_Part):
    """Measurements with rows of one length; `tokens` counts the whole batch."""

    tokens: Positive
    methods: Annotated[dict[Name, MethodCosts], Field(max_length=64)]
    load: Busy


class Machine(_Part):
    """The machine that the measurements ran on."""

    cpu: str
    cpu_features: list[str] | None = None
    cores: int | None = None
    threads: Positive
    system: str | None = None
    python: str | None = None
    versions: dict[str, str]
    gpu: str | None


class Settings(_Part):
    """The settings of the measurement: `multilora.bench.run.BenchOptions` and the device used."""

    model: str | None = None
    methods: list[str] | None = None
    r: int | None = None
    num_loras: int | None = None
    batch: Positive
    lengths: list[int] | None = None
    bf16: bool
    checkpointing: bool
    repeats: int | None = None
    minutes: float | None = None
    device: Literal["cpu", "cuda"]
    trust_remote_code: bool | None = None


class ModuleGrowth(_Part):
    """MultiLoRA of one rank at one length: (n, bytes kept for backward) in ascending order, and what a module adds."""

    points: list[tuple[int, int]]
    per_module: float


class Growth(_Part):
    """How the bytes kept for backward grow, from one measured point to the next.

    Attributes:
        modules: by length.
        per_token: by method, from the shortest to the longest length.
    """

    modules: dict[str, ModuleGrowth] = Field(default_factory=dict[str, ModuleGrowth])
    per_token: dict[str, float] = Field(default_factory=dict[str, float])


class NotMeasured(_Part):
    """A method that could not be measured at a length, and why."""

    method: str
    length: str
    message: str


class BenchRecord(Record):
    """The content of bench.json.

    Attributes:
        model: whose shape was measured.
        base_parameters: of the model without adapters.
        reference: the LoRA with which speeds are compared; None if there is none.
        lengths: by tokens per row.
        growth: of the bytes kept for backward.
        faults: what could not be measured.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    READABLE: ClassVar[tuple[int, ...]] = (FORMAT,)
    INDENT: ClassVar[int | None] = 1

    format: int  # pyright: ignore[reportGeneralTypeIssues] - no file of this kind lacks it
    machine: Machine
    model: str
    base_parameters: Positive
    settings: Settings
    reference: str | None
    lengths: Annotated[dict[Length, AtLength], Field(min_length=1, max_length=64)]
    growth: Growth | None = None
    faults: list[NotMeasured]

    @property
    def names(self) -> list[str]:
        """The methods that were measured at any length."""
        return list(dict.fromkeys(name for at in self.lengths.values() for name in at.methods))

    @property
    def ordered(self) -> list[tuple[int, AtLength]]:
        """Lengths sorted by tokens per row, shortest first."""
        return sorted((int(length), at) for length, at in self.lengths.items())

    @property
    def others_cpu(self) -> float | None:
        """The largest share of the cores' time that others took; None if unknown."""
        shares = [at.load.others_cpu for at in self.lengths.values()]
        known = [share for share in shares if share is not None]
        return max(known) if len(known) == len(shares) else None

    @property
    def is_quiet(self) -> bool:
        """Whether other processes are known to have left the machine idle."""
        return self.others_cpu is not None and self.others_cpu <= BUSY

    def how(self) -> str:
        """The machine and settings as text."""
        threads = f"{self.machine.threads} thread{'s' if self.machine.threads > 1 else ''}"
        where = self.machine.gpu or f"{self.machine.cpu}, {threads}"
        precision = "bf16 base, fp32 adapters" if self.settings.bf16 else "fp32"
        again = ", blocks run again in backward" if self.settings.checkpointing else ""
        return f"{where}; {precision}; batches of {self.settings.batch} rows{again}"


def read_bench(path: Path) -> BenchRecord:
    """Read bench.json, given as a file or as the folder that `multilora bench --out` wrote.

    Args:
        path: bench.json, or its folder.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    remedy = "give the bench.json that `multilora bench --out FOLDER` wrote"
    file = path / RESULTS if path.is_dir() else path
    try:
        found = BenchRecord.read(file, remedy)
    except InputError as error:
        raise InputError(f"bench: {error}") from error
    if not found.names:
        raise InputError(f"bench: {str(file)!r}: no method was measured; {remedy}")
    return found
