"""What bench.json holds, as it is read again: checked, because a user may give any file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multilora.errors import InputError

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


class _Part(BaseModel):
    """What all parts share. Keys that are not known are left out: a later version may write more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class KindBytes(_Part):
    """Memory of a training step, as `multilora.bench.measure.Bytes` has it."""

    weights: Count
    activations: Count
    gradients: Count
    optimizer: Count
    peak: Count


class Ratios(_Part):
    """Of the times within each round: median and quartiles."""

    median: Speed
    q1: Speed
    q3: Speed


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
    """What one method costs at one length.

    Attributes:
        kind: which method it is.
        num_loras, r: of an adapter.
        trainable_parameters: a count.
        adapter_bytes: None: it has no adapter.
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
        """n·r; None: it has no adapter."""
        return None if self.num_loras is None or self.r is None else self.num_loras * self.r


class Busy(_Part):
    """How busy others kept the machine: their share of all cores' time. None: nobody knows."""

    others_cpu: Annotated[float, Field(ge=0)] | None


class AtLength(_Part):
    """What was measured with rows of one length; `tokens` are those of the whole batch."""

    tokens: Positive
    methods: Annotated[dict[Name, MethodCosts], Field(max_length=64)]
    load: Busy


class Machine(_Part):
    """On what it was measured."""

    cpu: str
    gpu: str | None
    threads: Positive
    versions: dict[str, str]


class Settings(_Part):
    """How it was measured."""

    batch: Positive
    bf16: bool
    checkpointing: bool
    device: Literal["cpu", "cuda"]


class NotMeasured(_Part):
    """A method that could not be measured at a length, and why."""

    method: str
    length: str
    message: str


class BenchRecord(_Part):
    """The content of bench.json.

    Attributes:
        model: whose shape was measured.
        base_parameters: of the model without adapters.
        reference: the LoRA with which speeds are compared; None: there is none.
        lengths: by tokens per row.
        faults: what could not be measured.
    """

    format: Literal[2]
    machine: Machine
    model: str
    base_parameters: Positive
    settings: Settings
    reference: str | None
    lengths: Annotated[dict[Length, AtLength], Field(min_length=1, max_length=64)]
    faults: list[NotMeasured]

    @model_validator(mode="after")
    def _has_methods(self) -> BenchRecord:
        if not any(at.methods for at in self.lengths.values()):
            raise ValueError("no method was measured")
        return self

    @property
    def names(self) -> list[str]:
        """The methods that were measured at any length."""
        return list(dict.fromkeys(name for at in self.lengths.values() for name in at.methods))

    @property
    def ordered(self) -> list[tuple[int, AtLength]]:
        """By tokens per row, from the shortest on."""
        return sorted((int(length), at) for length, at in self.lengths.items())

    @property
    def others_cpu(self) -> float | None:
        """The largest share of the cores' time that others took; None: nobody knows."""
        shares = [at.load.others_cpu for at in self.lengths.values()]
        known = [share for share in shares if share is not None]
        return max(known) if len(known) == len(shares) else None

    @property
    def is_quiet(self) -> bool:
        """Others are known to have left the machine alone."""
        return self.others_cpu is not None and self.others_cpu <= BUSY

    def how(self) -> str:
        """On what and how it was measured, in words."""
        threads = f"{self.machine.threads} thread{'s' if self.machine.threads > 1 else ''}"
        where = self.machine.gpu or f"{self.machine.cpu}, {threads}"
        precision = "bf16 base, fp32 adapters" if self.settings.bf16 else "fp32"
        again = ", blocks run again in backward" if self.settings.checkpointing else ""
        return f"{where}; {precision}; batches of {self.settings.batch} rows{again}"


def read_bench(path: Path, option: str = "--bench") -> BenchRecord:
    """The file, or that in a folder which `multilora bench --out` wrote.

    Args:
        path: bench.json, or its folder.
        option: as a message calls it.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    remedy = "give the bench.json that `multilora bench --out FOLDER` wrote"
    file = path / RESULTS if path.is_dir() else path
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{option}: cannot read {str(file)!r}: {error.strerror}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{option}: {str(file)!r} is not JSON ({_first_line(error)}); {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(f"{option}: {str(file)!r} holds no object; {remedy}")
    try:
        return BenchRecord.model_validate(found)
    except ValidationError as error:
        raise InputError(f"{option}: {str(file)!r}: {_fault(error)}; {remedy}") from error


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "the file"
    more = f" (and {error.error_count() - 1:,} more)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return f"{field[:300]} is missing{more}"
    shown = repr(first["input"])
    message = first["msg"].removeprefix("Value error, ")
    got = f"; got {shown if len(shown) <= 60 else shown[:59] + '…'}" if first["loc"] else ""
    return f"{field[:300]}: {message[:1].lower()}{message[1:]}{got}{more}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
