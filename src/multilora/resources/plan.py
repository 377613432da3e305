"""`multilora plan`: what a recipe's run takes, by arithmetic. No weights and no data are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multilora.base.shape import base_structure
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.resources.memory import CONTEXT_BYTES, FRAGMENTATION, Memory, ModelSizes, Workload, estimate
from multilora.resources.parameters import Parameters
from multilora.resources.quantized import QuantizedWeights, quantized_weights

GIB = 2**30
_MOST_DEVICES = 64


@dataclass(frozen=True)
class Change:
    """A change of the recipe with which the run fits.

    Attributes:
        settings: for --set.
        total: bytes per device then.
        trainable: `multilora train` can do it.
    """

    settings: tuple[str, ...]
    total: int
    trainable: bool


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        recipe: what was planned.
        shape_from: where the model's shape is from: "config.json" or "model.shape".
        parameters: counts.
        workload: the training step.
        quantized: the base weights in few bits; None without any.
        memory: on each device.
        fits: into hardware.memory_gib; None: not said how much there is, or not known.
        changes: where it does not fit, what would: one change of each kind.
    """

    recipe: Recipe
    shape_from: str
    parameters: Parameters
    workload: Workload
    quantized: QuantizedWeights | None
    memory: Memory
    fits: bool | None
    changes: tuple[Change, ...]

    @property
    def spare(self) -> int | None:
        """Bytes left on each device; below zero: lacking."""
        available = self.recipe.hardware.memory_gib
        return None if available is None else round(available * GIB) - self.memory.total

    def notes(self) -> list[str]:
        """What the figures rest on."""
        how = self.workload.how
        packed = "packed " if self.recipe.training.packing else ""
        rows = f"{how.rows} {packed}row{'s' if how.rows > 1 else ''} of {how.length:,} tokens"
        notes = [f"a batch is {rows} on each device" + ("" if packed else "; less where all examples are shorter")]
        if not self.memory.activations_known:
            notes.append("activations are left out: the blocks of this model are not as Llama has them; expect more")
        if self.memory.gpu:
            notes.append(
                f"overhead is assumed: {CONTEXT_BYTES / GIB:g} GiB for driver and libraries, and "
                f"{FRAGMENTATION:.0%} of the tensors lost by the allocator".replace("%", " %")
            )
        else:
            notes.append(
                "tensors alone are counted: the libraries take about 0.5 GiB beside them, and the C library's "
                "allocator holds on to what was freed unless MALLOC_MMAP_THRESHOLD_=65536 is set"
            )
        if self.quantized is not None:
            notes.append(
                f"{self.quantized.numbers:,} of {self.parameters.base_total:,} weights are held in "
                f"{self.quantized.bits} bits, {8 * self.quantized.bytes / self.quantized.numbers:.2f} each with their "
                "scales"
            )
        if self.workload.sharded and self.quantized is not None:
            notes.append("quantised weights that are divided among devices can be planned, not trained")
        return notes

    def facts(self) -> dict[str, Any]:
        """All of it as plain data; sizes in bytes."""
        how, hardware = self.workload.how, self.recipe.hardware
        return {
            "model": self.recipe.model.path,
            "shape_from": self.shape_from,
            "method": self.recipe.method.model_dump(mode="json"),
            "parameters": {
                "base": self.parameters.base_total,
                "base_by_kind": dict(self.parameters.base),
                "trainable": self.parameters.trainable,
                "trainable_by_kind": dict(self.parameters.trained),
                "trainable_over_base": self.parameters.trainable / self.parameters.base_total,
                "file_bytes": self.parameters.file_bytes,
            },
            "quantized": None if self.quantized is None else asdict(self.quantized),
            "step": {"rows": how.rows, "tokens_per_row": how.length, "precision": self.recipe.training.precision},
            "memory_per_device": {
                "total": self.memory.total,
                "overhead_assumed": self.memory.overhead,
                "peak": self.memory.peak.name,
                "moments": {moment.name: dict(moment.parts) for moment in self.memory.moments},
                "activations_known": self.memory.activations_known,
            },
            "hardware": hardware.model_dump(mode="json"),
            "fits": self.fits,
            "spare_bytes": self.spare,
            "changes": [
                {"set": list(change.settings), "total": change.total, "trainable": change.trainable}
                for change in self.changes
            ],
            "notes": self.notes(),
        }


def plan_recipe(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Plan a recipe's run.

    Args:
        path: the recipe; environment variables in its paths need not be set, nor its data be there.
        overrides: as for `load_recipe`.

    Raises:
        InputError: as `load_recipe`, `base_structure` and `Parameters.of` say.
    """
    recipe = load_recipe(path, overrides, keep_unset=True)
    structure, shape_from = base_structure(recipe.model)
    parameters = Parameters.of(structure, recipe.method)
    quantized = quantized_weights(structure, recipe.model.quantization)
    sizes = ModelSizes.of(structure, parameters, quantized)
    workload = Workload.of(recipe)
    memory = estimate(sizes, workload)
    available = recipe.hardware.memory_gib
    fits = None if available is None else memory.total <= available * GIB
    changes = _changes(recipe, sizes) if fits is False else ()
    if fits and not memory.activations_known:
        fits = None
    return Plan(recipe, shape_from, parameters, workload, quantized, memory, fits, changes)


# What to change ----------------------------------------------------------------------------------------------------


def _changes(recipe: Recipe, sizes: ModelSizes) -> tuple[Change, ...]:
    """The first change of each kind that fits."""
    assert recipe.hardware.memory_gib is not None
    found: dict[str, Change] = {}
    for kind, settings in _candidates(recipe):
        if kind not in found:
            changed = _changed(recipe, settings)
            total = estimate(sizes, Workload.of(changed)).total
            if total <= recipe.hardware.memory_gib * GIB:
                texts = tuple(f"{key}={str(value).lower()}" for key, value in settings.items())
                trainable = changed.hardware.sharding == "none" or recipe.model.quantization is None
                found[kind] = Change(texts, total, trainable)
    return tuple(found.values())


def _candidates(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes by kind, the mildest first: recompute more, smaller batches at equal batch per step, sharding."""
    training, hardware = recipe.training, recipe.hardware
    recompute = {} if training.gradient_checkpointing else {"training.gradient_checkpointing": True}
    if recompute:
        yield "gradient checkpointing", recompute
    smaller: list[dict[str, Any]] = []
    rows = training.batch_size
    while rows % 2 == 0:
        rows //= 2
        passes = training.gradient_accumulation * training.batch_size // rows
        smaller.append({"training.batch_size": rows, "training.gradient_accumulation": passes})
    for batch in smaller:
        yield "smaller batch", batch
    if recompute:
        for batch in smaller:
            yield "both", recompute | batch
    devices = hardware.devices
    if hardware.sharding == "full" or devices == 1:
        devices *= 2
    while devices <= _MOST_DEVICES:
        shards = {"hardware.devices": devices, "hardware.sharding": "full"}
        yield "sharding", shards
        if recompute:
            yield "sharding", shards | recompute
        devices *= 2


def _changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=update)
