"""The model card of a run's weights: how they were trained, and how they score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.adapter.card import folder_card
from multilora.recipe import FullMethod, Recipe
from multilora.recipe.method_names import short_name
from multilora.runs.records import RunResults
from multilora.storage.model_card import Card, hub_id, table, write_card


@dataclass(frozen=True)
class CardScore:
    """A line of the card's scores.

    Attributes:
        task: its name.
        split: of which rows.
        metric: its name.
        value: None: there was nothing to score.
        interval: 95 % percentile bootstrap interval; None: fewer than two units.
        count: units.
    """

    task: str
    split: str
    metric: str
    value: float | None
    interval: tuple[float, float] | None
    count: int


def write_run_card(recipe: Recipe, results: RunResults, weights: Path, scores: Sequence[CardScore] = ()) -> bool:
    """Write or renew the card of a run's adapter or model; somebody's stays as it is.

    Args:
        recipe: the run's recipe.
        results: the figures of the finished run.
        weights: the folder of its adapter or model.
        scores: of evaluations.

    Returns:
        Whether it was written.

    Raises:
        InputError: the adapter's configuration cannot be read.
    """
    return write_card(weights, with_scores(_trained(recipe, results, weights), scores))


def with_scores(card: Card, scores: Sequence[CardScore]) -> Card:
    """The card with a table of scores; without any, the card."""
    if not scores:
        return card
    rows = [(s.task, s.split, s.metric, _number(s.value), _interval(s.interval), f"{s.count:,}") for s in scores]
    text = table(("task", "split", "metric", "value", "95 % interval (bootstrap)", "scored"), rows)
    metrics = list(dict.fromkeys(score.metric for score in scores))
    return card.with_({"metrics": metrics}, ("Scores", f"By lm-evaluation-harness, with `multilora eval`:\n\n{text}"))


def _trained(recipe: Recipe, results: RunResults, weights: Path) -> Card:
    base = hub_id(recipe.model.path)
    if isinstance(recipe.method, FullMethod):
        name = base or Path(str(recipe.model.path)).name
        tags = ["multilora", *([f"base_model:finetune:{base}"] if base else [])]
        card = Card(
            title=f"{name}, fine-tuned",
            text=f"All weights of {name} were trained, by `multilora train`. The folder needs no multilora.",
            metadata={
                "base_model": base,
                "library_name": "transformers",
                "pipeline_tag": "text-generation",
                "tags": tags,
            },
        )
    else:
        card = folder_card(weights)
    return card.with_({"datasets": _data_sets(recipe)}, ("Training", _training(recipe, results)))


def _training(recipe: Recipe, results: RunResults) -> str:
    training = recipe.training
    batch = training.batch_size * training.gradient_accumulation * results.processes
    rows: list[tuple[str, object]] = [
        ("method", f"`{short_name(recipe.method)}`"),
        ("steps", f"{results.steps:,}" + ("" if results.epochs is None else f" ({results.epochs:g} epochs)")),
        ("rows per step", f"{batch} ({'packed' if training.packing else 'one example each'})"),
        ("learning rate", f"{training.learning_rate:g}, {training.scheduler}, warm-up {training.warmup:g}"),
        ("scale's learning rate (`scaling_lr_ratio`)", f"{training.scaling_lr_ratio:g} times that"),
        ("weight decay", f"{training.weight_decay:g}"),
        ("longest example", f"{training.max_length:,} tokens"),
        ("precision", training.precision),
        ("seed", training.seed),
        ("trained parameters", f"{results.parameters.trainable:,} of {results.parameters.total:,}"),
        ("tokens", f"{results.tokens:,}"),
        ("loss of the last steps", f"{results.final_loss:.4g} nats per token"),
    ]
    if recipe.method.name != "multilora":
        rows = [row for row in rows if "scaling_lr_ratio" not in row[0]]
    if recipe.model.quantization is not None:
        rows.append(("base model during training", f"in {recipe.model.quantization.bits} bits"))
    validation = results.validation
    losses = [] if validation is None else [line.loss for line in (validation.before, validation.after) if line]
    if len(losses) == 2 and None not in losses:
        rows.append(("validation loss", f"{losses[0]:.4g} before, {losses[1]:.4g} after"))
    tasks = [
        (f"`{name}`", _data_set(section) or "own files", f"{of.kept:,}")
        for name, section, of in _tasks(recipe, results)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"{table(('', ''), rows)}\n\n{table(('task', 'data set', 'examples'), tasks)}\n\n"
        f"Recipe {results.recipe_hash}; on {results.device}, with {versions}."
    )


def _tasks(recipe: Recipe, results: RunResults) -> list[tuple[str, Any, Any]]:
    return [(name, section, results.tasks[name]) for name, section in recipe.tasks.items() if name in results.tasks]


def _data_set(section: Any) -> str | None:
    """The id on the Hub of what a task is about, its own copy in a folder included."""
    usual = getattr(getattr(section, "data_set", None), "on_hub", None)
    return hub_id(getattr(section, "hub", None) or getattr(usual, "id", None) or None)


def _data_sets(recipe: Recipe) -> list[str]:
    return sorted({found for section in recipe.tasks.values() if (found := _data_set(section))})


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
