"""What a run folder's files hold: results.json, data.json, metrics.jsonl, validation.jsonl and best/best.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from multilora.storage.record import Line, Part, Record


class TaskRows(Part):
    """What became of a task's rows, as `multilora.data.encoding.TaskCounts` explains.

    Attributes:
        passes: over the task's files; only with mixture.streaming.
        drawn: rows that the run took; only with mixture.streaming.
    """

    rows: int
    kept: int
    skipped: int
    dropped: int
    truncated: int
    tokens: int
    completion_tokens: int
    leaked: int = 0
    skipped_named: Mapping[str, list[str]] = Field(default_factory=dict)
    passes: int | None = None
    drawn: int | None = None


class DataRecord(Record):
    """data.json: with which data a run began.

    Attributes:
        processes: how many trained.
        tasks: by name, `fingerprint` of the rows and what became of them; with mixture.streaming `files`: names, sizes
            and times.
    """

    processes: int
    tasks: Mapping[str, Mapping[str, Any]]


class TaskLoss(Part):
    """A task's loss, and further metrics by their names.

    Attributes:
        loss: in nats per token of the completions.
        tokens: over which it is the mean.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, float]  # pyright: ignore[reportIncompatibleVariableOverride]

    loss: float
    tokens: int

    @property
    def metrics(self) -> Mapping[str, float]:
        """Scores by name, the main one first; empty if the task was not scored."""
        return self.__pydantic_extra__


class MetricsLine(Line):
    """A line of metrics.jsonl: means over the steps since the line before.

    Attributes:
        step: the last of them, counted from 1.
        loss: in nats per token of the completions.
        grad_norm: before clipping.
        learning_rate: of the last step.
        entropy: of the predictions, in nats.
        mean_token_accuracy: share of tokens that are predicted rightly.
        epoch: passes over all rows until the step.
        tokens: of the whole run until the step.
        tokens_per_second: since the line before.
        seconds: of training until the step.
        tasks: loss and tokens of each task that had rows.
    """

    step: int
    loss: float
    grad_norm: float | None = None
    learning_rate: float | None = None
    entropy: float | None = None
    mean_token_accuracy: float | None = None
    epoch: float | None = None
    tokens: int
    tokens_per_second: float
    seconds: float
    tasks: Mapping[str, TaskLoss] = Field(default_factory=dict)


class GeneralText(Part):
    """How well a model predicts text that no task is about.

    Attributes:
        loss: in nats per token.
        tokens: of the text.
        bits_per_character: of the text; comparable between tokenizers.
    """

    loss: float
    tokens: int
    bits_per_character: float


class ValidationLine(Line):
    """A line of validation.jsonl.

    Attributes:
        step: after which it was measured; 0: before training.
        loss: mean over the tasks.
        tasks: loss, tokens and metrics of each task.
        score: mean of the tasks' main metrics.
        general_text: what the loss on it was, if the recipe names a text.
    """

    step: int
    loss: float | None = None
    tasks: Mapping[str, TaskLoss] = Field(default_factory=dict)
    score: float | None = None
    general_text: GeneralText | None = None


class BestWeights(Part):
    """Which weights were the best.

    Attributes:
        step: after which they were measured.
        best_by: what the recipe's validation.best_by says.
        value: of that measure.
    """

    step: int
    best_by: str
    value: float


class BestRecord(BestWeights, Record):
    """best/best.json."""


class ValidationSummary(Part):
    """Validation of a run's beginning and end; None where there was none.

    Attributes:
        before: of the base model.
        after: of the weights that the run ends with.
        best: which weights these are, if the recipe asks for the best.
    """

    before: ValidationLine | None
    after: ValidationLine | None
    best: BestWeights | None

    @property
    def forgetting(self) -> float | None:
        """How much higher the loss on general text is after training, in nats per token; None if not measured."""
        before, after = (line.general_text if line else None for line in (self.before, self.after))
        return None if before is None or after is None else after.loss - before.loss


class ParameterNumbers(Part):
    """Numbers of parameters, adapters included."""

    trainable: int
    total: int


class RunResults(Record):
    """results.json of a run: there when the run is finished.

    Attributes:
        recipe_hash: of the recipe.
        method: multilora, lora or full.
        seed: of the training.
        steps: optimizer steps.
        epochs: passes over all rows; None if unknown, as with mixture.streaming.
        final_loss: of the last logged steps, in nats per token.
        parameters: of the model.
        tokens: of all rows trained on, each time counted.
        seconds: of training.
        tokens_per_second: over the whole training.
        peak_memory_bytes: resident, of the main process.
        peak_cuda_memory_bytes: allocated, of the main process; None without CUDA.
        device: name of the GPU, or cpu.
        threads: of torch.
        processes: how many trained; the first version, which does not say, had one.
        tasks: what became of each task's rows.
        versions: of Python and of packages.
        validation: None if the recipe asks for none.
    """

    recipe_hash: str
    method: str
    seed: int
    steps: int
    epochs: float | None
    final_loss: float
    parameters: ParameterNumbers
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    peak_cuda_memory_bytes: int | None
    device: str
    threads: int
    processes: int = 1
    tasks: Mapping[str, TaskRows]
    versions: Mapping[str, str]
    validation: ValidationSummary | None = None

    @property
    def forgetting(self) -> float | None:
        """As `ValidationSummary.forgetting`."""
        return None if self.validation is None else self.validation.forgetting
