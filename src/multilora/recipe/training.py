"""How a recipe trains."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from multilora.errors import InputError, nearest
from multilora.fields import Integer, Number, PathText, Section


def _known_tracker(name: str) -> str:
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    if name not in known:
        raise InputError(f"unknown tracker {name!r}{nearest(name, known)}; known: {', '.join(sorted(known))}")
    available = integration_utils.get_available_reporting_integrations()
    if name not in available:
        install = "`pip install multilora[tensorboard]`" if name == "tensorboard" else "install its own package"
        raise InputError(f"the tracker {name!r} is not installed; {install}, or leave it out")
    return name


class TrainingSection(Section):
    """How to train, and where the run goes."""

    # Where a run goes and what is kept or shown of it.
    FREE_TO_CHANGE: ClassVar = ("output", "save_every", "keep_checkpoints", "log_every", "report_to")

    output: PathText = Field(description="The run folder. Must be new or empty, but for --resume or --overwrite.")
    steps: Integer | None = Field(None, ge=1, description="Optimizer steps. Give steps or epochs, not both.")
    epochs: Number | None = Field(
        None, gt=0, description="Passes: one epoch is as many examples as the tasks have rows. Give steps or epochs."
    )
    batch_size: Integer = Field(8, ge=1, description="Examples, or packed rows, per device and forward pass.")
    gradient_accumulation: Integer = Field(1, ge=1, description="Forward passes per optimizer step.")
    learning_rate: Number = Field(3e-4, gt=0, description="Peak learning rate of AdamW.")
    scaling_lr_ratio: Number = Field(
        1.0,
        gt=0,
        description="The learned scale's learning rate as a multiple of learning_rate. The scale starts at zero, and "
        "until it moves nothing else does.",
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="The learning rate after warm-up: down to zero (cosine, linear) or constant."
    )
    warmup: Number = Field(0.05, ge=0, le=1, description="Linear warm-up, as a share of all steps.")
    weight_decay: Number = Field(
        0.0, ge=0, description="Weight decay of AdamW. Never on the learned scale, biases and norms."
    )
    max_grad_norm: Number | None = Field(1.0, gt=0, description="Gradient clipping by global norm. None: no clipping.")
    max_length: Integer = Field(
        1024,
        ge=2,
        description="Longest example in tokens, prompt, completion and eos.",
    )
    packing: bool = Field(
        False,
        description="Pack whole examples into rows of packed_length tokens, in which none sees another: no time is "
        "spent on padding. batch_size counts these rows, so choose a smaller one. Needs attention that heeds "
        "position_ids; that is checked before training.",
    )
    packed_length: Integer | None = Field(
        None,
        ge=2,
        description="Tokens of a packed row, at least max_length. None: twice max_length, which leaves hardly a token "
        "empty; at max_length itself two examples longer than half of it never share a row, but attention, which grows "
        "with the row, costs less.",
    )
    on_long_example: Literal["drop", "truncate", "fail"] = Field(
        "drop",
        description="An example longer than max_length: leave it out, cut the completion's end, or stop. Counted.",
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description="bf16: adapters in fp32 on a base model in bf16; full fine-tuning with fp32 weights and bf16 "
        "autocast. fp32: everything in fp32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in backward: less memory, about a fifth more time."
    )
    seed: Integer = Field(0, ge=0, lt=2**32, description="Seed of the initialisation, the order and dropout.")
    save_every: Integer = Field(100, ge=1, description="Steps between checkpoints; there is one at the end too.")
    keep_checkpoints: Integer = Field(2, ge=1, description="How many of the newest checkpoints to keep.")
    log_every: Integer = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    report_to: list[Annotated[str, AfterValidator(_known_tracker)]] = Field(
        [], description="Trackers to report to as well, such as tensorboard or wandb."
    )

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TrainingSection:
        if (self.steps is None) == (self.epochs is None):
            raise InputError(f"give either steps or epochs; got steps: {self.steps} and epochs: {self.epochs}")
        return self

    @model_validator(mode="after")
    def _packed_length_fits(self) -> TrainingSection:
        if self.packed_length is not None and not self.packing:
            raise InputError(
                f"packed_length: {self.packed_length} has no effect without packing; leave it out, or set packing: true"
            )
        if self.packed_length is not None and self.packed_length < self.max_length:
            raise InputError(
                f"packed_length must be at least max_length = {self.max_length}, or the longest examples fit into no "
                f"row; got {self.packed_length}"
            )
        return self

    @property
    def row_length(self) -> int:
        """Tokens of a packed row."""
        return self.packed_length or 2 * self.max_length
