"""`multilora data preview`: what a recipe trains on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from multilora.base.loading import ModelSource
from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import EncodedTask, encode_tasks
from multilora.data.guard import Guard
from multilora.data.mixture import mixture_stream
from multilora.data.packing import packed_rows
from multilora.data.round_trip import RoundTrip, decoded, round_trip, spread
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.tasks.example import Task
from multilora.terminal import quiet_libraries
from multilora.training.prepare import encode_mixture, open_tasks, row_rules, steps_of

_ROWS_TO_PACK = 2000
_LOSSY_SHARE = 0.01


@dataclass(frozen=True)
class SamplePart:
    """A piece of a sample as the model sees it, decoded from its tokens; the loss has it or not."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class TaskPreview:
    """A task of a recipe.

    Attributes:
        examples: rows to train on.
        left_out: rows that equal evaluation rows and are not trained on (`mixture.on_leak: drop`).
        counts: what became of the others (`TaskCounts`).
        lengths: tokens of the examples: min, median, p95, max; after rows were dropped or truncated.
        too_long: share of the rows, bad ones aside, that are longer than `training.max_length`.
        rate: sampling rate per example, relative to the other tasks'.
        share_of_examples, share_of_tokens: of what training sees.
        epochs: how often training sees each of the task's examples; None for a stream that was not read to its end.
        round_trip: of the tokenizer on this task.
        samples: examples spread evenly over the task.
    """

    examples: int
    left_out: int
    counts: dict[str, Any]
    lengths: dict[str, int]
    too_long: float
    rate: float
    share_of_examples: float
    share_of_tokens: float
    epochs: float | None
    round_trip: RoundTrip
    samples: list[list[SamplePart]]


@dataclass(frozen=True)
class Preview:
    """What a recipe trains on.

    Attributes:
        model: folder or hub id.
        special_tokens: the tokenizer's bos, eos and pad; None where it has none.
        padded_with: the token that fills batches up.
        steps: optimizer steps.
        examples: that the steps see, in one process.
        useful_positions: share of the positions of batches that hold tokens of examples, not padding.
        packing: examples are packed into rows of `row_length` tokens; otherwise padded to the longest of the batch.
        row_length: tokens of a packed row; None without packing.
        max_length: of an example, in tokens.
        on_long_example: what happens to longer ones.
        tasks: by name.
        notes: rows that are not used as they are.
        warnings: what is likely not meant.
    """

    model: str
    special_tokens: dict[str, str | None]
    padded_with: str
    steps: int
    examples: int
    useful_positions: float
    packing: bool
    row_length: int | None
    max_length: int
    on_long_example: str
    tasks: dict[str, TaskPreview]
    notes: list[str]
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """The preview as plain data for JSON."""
        facts = asdict(self)
        for name, task in self.tasks.items():
            facts["tasks"][name]["round_trip"]["share"] = task.round_trip.share
        return facts


def preview_recipe(
    path: Path, overrides: Sequence[str] = (), samples: int = 3, rows_of_stream: int = 10_000
) -> Preview:
    """Read and encode a recipe's data as training does. The model's weights are not loaded, only its tokenizer.

    Of a recipe that streams only the first rows of each task are read, as their number may be without bound.

    Args:
        path: the recipe.
        overrides: as for `load_recipe`.
        samples: how many to show of each task.
        rows_of_stream: how many rows of each task to read at most if the recipe streams.

    Raises:
        InputError: what stops training stops this: the recipe, the data, the tokenizer.
    """
    recipe = load_recipe(path, overrides)
    guard = _guard_of(recipe, open_tasks(recipe))
    source = ModelSource.find(recipe.model)
    with quiet_libraries():
        tokenizer = source.tokenizer()
        encoder = PromptCompletionEncoder(tokenizer)
        with guard.reading():
            if recipe.mixture.streaming:
                mixture = _first_rows(recipe, guard.tasks, encoder, rows_of_stream)
            else:
                mixture = encode_mixture(recipe, guard.tasks, encoder)
        cut = {task.name for task in mixture.tasks if recipe.mixture.streaming and task.counts.rows >= rows_of_stream}
        return _preview(recipe, guard, tokenizer, encoder, mixture, samples, cut)


def _guard_of(recipe: Recipe, tasks: list[Task]) -> Guard:
    if recipe.mixture.streaming and recipe.mixture.on_leak == "fail":
        note = "not compared with evaluation rows, as it streams: `multilora data check` does that"
        return Guard(tasks, "fail", {}, [note])
    return Guard.of(tasks, recipe.mixture.on_leak)


def _first_rows(recipe: Recipe, tasks: Sequence[Task], encoder: PromptCompletionEncoder, limit: int) -> EncodedMixture:
    rows = encode_tasks(tasks, encoder, row_rules(recipe), limit=limit)
    return EncodedMixture(rows, [recipe.tasks[task.name].rate for task in tasks])


def _preview(
    recipe: Recipe,
    guard: Guard,
    tokenizer: Any,
    encoder: PromptCompletionEncoder,
    mixture: EncodedMixture,
    samples: int,
    cut: Collection[str],
) -> Preview:
    """`cut` names the tasks that may have more rows than were read."""
    training, steps = recipe.training, steps_of(recipe, mixture)
    rows = steps * training.batch_size * training.gradient_accumulation
    examples_per_row, useful = _rows_of(recipe, mixture, rows)
    examples = round(rows * examples_per_row)
    total = sum(mixture.rates)
    shares = [rate / total for rate in mixture.rates]
    tokens = [share * float(task.lengths.mean()) for share, task in zip(shares, mixture.tasks, strict=True)]
    left_out = {name: len(rows) for name, rows in guard.leaked.items()}  # before rows are read again
    previews: dict[str, TaskPreview] = {}
    for task, encoded, rate, share, part in zip(guard.tasks, mixture.tasks, mixture.rates, shares, tokens, strict=True):
        counts = encoded.counts
        previews[task.name] = TaskPreview(
            examples=len(encoded),
            left_out=left_out.get(task.name, 0),
            counts=asdict(counts),
            lengths=_lengths(encoded),
            too_long=(counts.dropped + counts.truncated) / (counts.kept + counts.dropped),
            rate=rate,
            share_of_examples=share,
            share_of_tokens=part / sum(tokens),
            epochs=None if task.name in cut else examples * share / len(encoded),
            round_trip=round_trip(task, counts.rows, encoder, tokenizer),
            samples=[_sample(encoded, row, tokenizer) for row in spread(len(encoded), samples)],
        )
    return Preview(
        model=recipe.model.path,
        special_tokens={kind: getattr(tokenizer, f"{kind}_token") for kind in ("bos", "eos", "pad")},
        padded_with=tokenizer.pad_token or tokenizer.eos_token,
        steps=steps,
        examples=examples,
        useful_positions=useful,
        packing=training.packing,
        row_length=training.row_length if training.packing else None,
        max_length=training.max_length,
        on_long_example=training.on_long_example,
        tasks=previews,
        notes=guard.notes + [note for task in mixture.tasks for note in _notes(guard, task, task.name in cut)],
        warnings=[
            _lossy(name, task.round_trip) for name, task in previews.items() if task.round_trip.share > _LOSSY_SHARE
        ],
    )


def _notes(guard: Guard, task: EncodedTask, is_cut: bool) -> list[str]:
    cut = [f"{task.name}: it streams; the figures are of its first {task.counts.rows:,} rows"]
    left_out = guard.leaked[task.name].notes(task.name) if task.name in guard.leaked else []
    return (cut if is_cut else []) + left_out + task.counts.notes(task.name)


def _rows_of(recipe: Recipe, mixture: EncodedMixture, rows: int) -> tuple[float, float]:
    """Examples in a row of a batch, and the share of its positions that hold tokens, over the first rows of the run."""
    training, lengths = recipe.training, mixture.lengths
    stream = mixture_stream(mixture.sizes, mixture.rates, training.seed)
    if training.packing:
        packed = list(islice(packed_rows(stream, lengths, training.row_length), min(rows, _ROWS_TO_PACK)))
        used = int(lengths[[example for row in packed for example in row]].sum())
        return sum(map(len, packed)) / len(packed), used / (len(packed) * training.row_length)
    batches = min(rows, _ROWS_TO_PACK) // training.batch_size or 1
    sizes = lengths[list(islice(stream, batches * training.batch_size))].reshape(batches, training.batch_size)
    return 1.0, float(sizes.sum() / (sizes.max(axis=1) * training.batch_size).sum())


def _lengths(task: EncodedTask) -> dict[str, int]:
    lengths = task.lengths
    median, p95 = np.percentile(lengths, [50, 95], method="nearest")
    return {"min": int(lengths.min()), "median": int(median), "p95": int(p95), "max": int(lengths.max())}


def _sample(task: EncodedTask, row: int, tokenizer: Any) -> list[SamplePart]:
    """The row's tokens as text, special ones too, cut where the loss begins or ends."""
    begin, end = task.offsets[row], task.offsets[row + 1]
    ids, mask = task.input_ids[begin:end].tolist(), task.loss_mask[begin:end]
    cuts = [*(np.flatnonzero(np.diff(mask.astype(np.int8))) + 1).tolist(), len(ids)]
    parts, start, before = list[SamplePart](), 0, ""
    for cut in cuts:
        # Decode the whole text, not the part alone: decoders treat the beginning of a text specially.
        text = decoded(tokenizer, ids[:cut])
        part = text[len(before) :] if text.startswith(before) else decoded(tokenizer, ids[start:cut])
        parts.append(SamplePart(part, bool(mask[start])))
        start, before = cut, text
    return parts


def _lossy(name: str, trip: RoundTrip) -> str:
    characters = " ".join(repr(character) for character in trip.lost[:12])
    lost = f" Characters that it loses: {characters}{' …' if len(trip.lost) > 12 else ''}." if characters else ""
    return (
        f"{name}: the tokenizer changes {trip.differing:,} of {trip.rows:,} texts: decode(encode(text)) is another "
        f"text.{lost} The model cannot learn what it cannot see: choose another model for this task"
    )
