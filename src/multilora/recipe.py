"""The recipe: what a run is, typed and validated. `multilora schema` prints its JSON schema from the texts below."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from peft import LoraConfig, PeftConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from multilora.config import InitWeights, MultiLoraConfig, Scaling
from multilora.data.template import Template
from multilora.errors import InputError, nearest

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _expand(value: Any) -> Any:
    """`${NAME}` and a leading `~` in a path."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise InputError(f"the environment variable {name} is not set; set it, or write the path itself")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(replace, value)) if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise InputError(f"must be a number; got {value!r}")
    return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _parsed(text: str) -> str:
    Template.parse(text)
    return text


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


# pydantic would take true for 1, and reads the text "1e-4", which is what YAML makes of a bare 1e-4, as a number.
Integer = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool)]
PathText = Annotated[Path, BeforeValidator(_expand)]
TemplateText = Annotated[str, AfterValidator(_parsed)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The base model. A bare text is short for its `path`."""

    path: Annotated[str, BeforeValidator(_expand)] = Field(
        min_length=1, description="Folder of a causal language model, or its id on the Hugging Face hub."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a model on the hub.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless you trust its author."
    )


def _of_peft(name: str) -> Any:
    """The help text of a field of `MultiLoraConfig`: said there, shown here."""
    return MultiLoraConfig.__dataclass_fields__[name].metadata["help"]


class _TargetsSection(_Section):
    target_modules: list[str] | str = Field("all-linear", min_length=1, description=_of_peft("target_modules"))
    exclude_modules: list[str] | str | None = Field(None, description=_of_peft("exclude_modules"))
    layers_to_transform: list[Integer] | Integer | None = Field(None, description=_of_peft("layers_to_transform"))
    layers_pattern: list[str] | str | None = Field(None, description=_of_peft("layers_pattern"))
    rank_pattern: dict[str, Integer] = Field({}, description=_of_peft("rank_pattern"))
    alpha_pattern: dict[str, Number] = Field({}, description=_of_peft("alpha_pattern"))
    modules_to_save: list[str] | None = Field(None, description=_of_peft("modules_to_save"))
    trainable_token_indices: list[Integer] | dict[str, list[Integer]] | None = Field(
        None, description=_of_peft("trainable_token_indices")
    )

    def peft_config(self) -> PeftConfig:
        """The method as PEFT's configuration."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _accepted_by_peft(self) -> _TargetsSection:
        with warnings.catch_warnings():  # they come again, once, when the model is built
            warnings.simplefilter("ignore")
            self.peft_config()
        return self


class MultiLoraMethod(_TargetsSection):
    """MultiLoRA: num_loras LoRA modules in parallel per layer, with a learned scale."""

    name: Literal["multilora"] = Field(description="The method.")
    r: Integer = Field(32, ge=1, description=_of_peft("r"))
    num_loras: Integer = Field(3, ge=1, description=_of_peft("num_loras"))
    lora_alpha: Number | None = Field(None, gt=0, description=_of_peft("lora_alpha"))
    lora_dropout: Number = Field(0.0, ge=0, lt=1, description=_of_peft("lora_dropout"))
    scaling: Scaling = Field("vector", description=_of_peft("scaling"))
    init_weights: bool | InitWeights = Field(True, description=_of_peft("init_weights"))
    bias: Literal["none", "all", "multilora_only"] = Field("none", description=_of_peft("bias"))

    def peft_config(self) -> MultiLoraConfig:
        return MultiLoraConfig(task_type="CAUSAL_LM", **self.model_dump(exclude={"name"}))


class LoraMethod(_TargetsSection):
    """LoRA as PEFT has it, for comparison. Fair at equal rank: r = num_loras · r of MultiLoRA."""

    name: Literal["lora"] = Field(description="The method.")
    r: Integer = Field(32, ge=1, description="Rank of the adapter. At least 1.")
    lora_alpha: Integer | None = Field(
        None, ge=1, description="The constant factor is lora_alpha / r. None: r, so the factor is 1."
    )
    lora_dropout: Number = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input; in [0, 1).")
    use_rslora: bool = Field(False, description="Use lora_alpha / √r as the constant factor.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="As for MultiLoRA.")

    def peft_config(self) -> LoraConfig:
        values = self.model_dump(exclude={"name", "lora_alpha"})
        return LoraConfig(task_type="CAUSAL_LM", lora_alpha=self.lora_alpha or self.r, **values)


class FullMethod(_Section):
    """Full fine-tuning: every weight of the model is trained."""

    name: Literal["full"] = Field(description="The method.")


class TaskSection(_Section):
    """A task from JSON-lines files."""

    train: Annotated[list[PathText], BeforeValidator(_as_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1, description="JSON-lines file or files with the training rows: one JSON object per line."
    )
    prompt: Annotated[list[TemplateText], BeforeValidator(_as_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1,
        description="The model's input as a template: {field} is replaced by the row's value; write {{ and }} for "
        "braces. Of a list, the first template whose fields are all there and not empty is used; the last one also "
        "takes empty values.",
    )
    completion: TemplateText = Field(
        description="The target as a template. It is the model's text right after the prompt: begin it with a space "
        "or end the prompt with a line break where the text needs one. The eos token is added."
    )
    rate: Number = Field(
        1.0, gt=0, description="Sampling share of the task, relative to the other tasks' rates. Equal by default."
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail",
        description="A row that is not JSON, lacks a field or has a blank completion: stop, or skip it (skips are "
        "counted and named).",
    )


class TrainingSection(_Section):
    """How to train, and where the run goes."""

    output: PathText = Field(description="The run folder. Must be new or empty, but for --resume or --overwrite.")
    steps: Integer | None = Field(None, ge=1, description="Optimizer steps. Give steps or epochs, not both.")
    epochs: Number | None = Field(
        None, gt=0, description="Passes: one epoch is as many examples as the tasks have rows. Give steps or epochs."
    )
    batch_size: Integer = Field(8, ge=1, description="Examples per device and forward pass.")
    gradient_accumulation: Integer = Field(1, ge=1, description="Forward passes per optimizer step.")
    learning_rate: Number = Field(3e-4, gt=0, description="Peak learning rate of AdamW.")
    scaling_lr_ratio: Number = Field(
        1.0,
        gt=0,
        description="The learned scale's learning rate as a multiple of learning_rate. The scale starts at zero, and "
        "until it moves nothing else does.",
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate goes on after warm-up: down to zero (cosine, linear) or constant."
    )
    warmup: Number = Field(0.05, ge=0, le=1, description="Linear warm-up, as a share of all steps.")
    weight_decay: Number = Field(
        0.0, ge=0, description="Weight decay of AdamW. Never on the learned scale, biases and norms."
    )
    max_grad_norm: Number | None = Field(1.0, gt=0, description="Gradient clipping by global norm. None: no clipping.")
    max_length: Integer = Field(1024, ge=2, description="Longest example in tokens, prompt, completion and eos.")
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


# Where a run goes and what is kept or shown of it; everything else in a recipe determines the trained weights.
NOT_DETERMINING = ("output", "save_every", "keep_checkpoints", "log_every", "report_to")


class Recipe(_Section):
    """A run of `multilora train`: base model, method, tasks, training."""

    model: Annotated[
        ModelSection,
        BeforeValidator(
            lambda value: {"path": value} if isinstance(value, str) else value,
            json_schema_input_type=str | ModelSection,
        ),
    ] = Field(description="The base model: a folder or hub id, or a section with more options.")
    method: MultiLoraMethod | LoraMethod | FullMethod = Field(
        discriminator="name", description="What is trained: name is multilora, lora or full."
    )
    tasks: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], TaskSection] = Field(
        min_length=1, description="The tasks by name."
    )
    training: TrainingSection = Field(description="How to train, and where the run goes.")

    @model_validator(mode="after")
    def _ratio_has_a_scale(self) -> Recipe:
        scaled = isinstance(self.method, MultiLoraMethod) and self.method.scaling != "none"
        if self.training.scaling_lr_ratio != 1.0 and not scaled:
            raise InputError(
                f"training.scaling_lr_ratio: {self.training.scaling_lr_ratio} has no effect: the method has no learned "
                "scale. Leave it out, or use method multilora with scaling vector or scalar"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data with every default, ready for YAML or JSON."""
        return self.model_dump(mode="json")

    def determining(self) -> dict[str, Any]:
        """`resolved()` without what does not change the trained weights, such as the output folder."""
        data = self.resolved()
        for name in NOT_DETERMINING:
            del cast(dict[str, Any], data["training"])[name]
        return data

    def recipe_hash(self) -> str:
        """Short hash of `determining()`: equal for recipes that train the same weights from the same data."""
        text = json.dumps(self.determining(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
