"""The recipe: what a run is, typed and validated. `multilora schema` prints its JSON schema from the texts in here."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from multilora.errors import InputError
from multilora.fields import Section, expand
from multilora.recipe.comparison import ComparisonSection
from multilora.recipe.hardware import HardwareSection
from multilora.recipe.method import FullMethod, LoraMethod, MultiLoraMethod, without_plain_scale
from multilora.recipe.mixture import MixtureSection
from multilora.recipe.quantization import QuantizationSection
from multilora.recipe.tasks import AnyTaskSection, as_written
from multilora.recipe.training import TrainingSection
from multilora.recipe.validation import ValidationSection

__all__ = [
    "ComparisonSection",
    "FullMethod",
    "HardwareSection",
    "LoraMethod",
    "MixtureSection",
    "ModelSection",
    "MultiLoraMethod",
    "QuantizationSection",
    "Recipe",
    "TrainingSection",
    "ValidationSection",
]


class ModelSection(Section):
    """The base model. A bare text is short for its `path`."""

    FREE_TO_CHANGE: ClassVar = ("shape",)

    path: Annotated[str, BeforeValidator(expand)] = Field(
        min_length=1, description="Folder of a causal language model, or its id on the Hugging Face hub."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a model on the hub.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless you trust its author."
    )
    shape: dict[str, Any] | None = Field(
        None,
        description="The model's configuration as far as its shape goes, as in its config.json: model_type, "
        "hidden_size and so on. With it `multilora plan` needs no model at hand; if one is, it must agree.",
    )
    quantization: QuantizationSection | None = Field(
        None,
        description="Hold the linear layers in 4 or 8 bits (pip install 'multilora[quantized]'). None: as they are; an "
        "empty section {}: 4 bits. For adapters only.",
    )

    @model_validator(mode="after")
    def _shape_of_a_type(self) -> ModelSection:
        if self.shape is not None and not isinstance(self.shape.get("model_type"), str):
            raise InputError(f"shape needs the model_type, such as model_type: llama; got {self.shape}")
        return self


def _may_extend(schema: dict[str, Any]) -> None:
    """`extends` is resolved before validation (`recipe.file`), so the model has no such field; the schema has."""
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Another recipe, relative to this one's folder: sections are merged and what this recipe says "
        "wins. method is taken as a whole; a task or a compared method that is null is left out.",
    }
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]


class Recipe(Section):
    """A run of `multilora train`: base model, method, tasks, training."""

    FREE_TO_CHANGE: ClassVar = ("comparison", "hardware")

    model_config = ConfigDict(json_schema_extra=_may_extend)

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
    tasks: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], AnyTaskSection] = Field(
        min_length=1, description="The tasks by name."
    )
    mixture: MixtureSection = Field(MixtureSection.model_validate({}), description="How often each task is seen.")
    training: TrainingSection = Field(description="How to train, and where the run goes.")
    validation: ValidationSection | None = Field(
        None, description="Validation while training. None: no validation; an empty section {}: before and after."
    )
    comparison: ComparisonSection | None = Field(None, description="What `multilora compare` runs.")
    hardware: HardwareSection = Field(
        HardwareSection.model_validate({}), description="The machine that `multilora plan` reckons with."
    )

    @model_validator(mode="after")
    def _ratio_has_a_scale(self) -> Recipe:
        scaled = isinstance(self.method, MultiLoraMethod) and self.method.scaling != "none"
        if self.training.scaling_lr_ratio != 1.0 and not scaled:
            raise InputError(
                f"training.scaling_lr_ratio: {self.training.scaling_lr_ratio} has no effect: the method has no learned "
                "scale. Leave it out, or use method multilora with scaling vector or scalar"
            )
        return self

    @model_validator(mode="after")
    def _quantised_weights_are_frozen(self) -> Recipe:
        if self.model.quantization is not None and isinstance(self.method, FullMethod):
            raise InputError(
                f"model.quantization: weights in {self.model.quantization.bits} bits cannot be trained, as method full "
                "would; leave it out, or use method multilora or lora"
            )
        return self

    @model_validator(mode="after")
    def _rates_have_an_effect(self) -> Recipe:
        rated = [name for name, task in self.tasks.items() if task.rate != 1.0]
        if self.mixture.rates != "explicit" and rated:
            raise InputError(
                f"tasks.{rated[0]}.rate: {self.tasks[rated[0]].rate} has no effect with mixture.rates: "
                f"{self.mixture.rates}; leave it out, or set mixture.rates: explicit"
            )
        return self

    @model_validator(mode="after")
    def _streams_have_no_epochs(self) -> Recipe:
        if self.mixture.streaming and self.training.epochs is not None:
            raise InputError(
                f"training.epochs: {self.training.epochs} needs the tasks' sizes, which a stream does not know; give "
                "training.steps, or set mixture.streaming to false"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data with every default, ready for YAML or JSON."""
        data = self.model_dump(mode="json")
        if isinstance(self.method, MultiLoraMethod):
            data["method"] = self.method.resolved()
        if self.model.quantization is None:  # so that the hash of a recipe without it does not depend on the section
            del cast(dict[str, Any], data["model"])["quantization"]
        tasks = cast(dict[str, dict[str, Any]], data["tasks"])
        data["tasks"] = {name: as_written(section) for name, section in tasks.items()}
        return data

    def determining(self) -> dict[str, Any]:
        """`resolved()` without what does not change the trained weights, such as the output folder."""
        data = self.resolved()
        for name in type(self).model_fields:
            part: Any = getattr(self, name)
            for key in part.FREE_TO_CHANGE if isinstance(part, Section) else ():
                del cast(dict[str, Any], data[name])[key]
        for name in self.FREE_TO_CHANGE:
            del data[name]
        if self.validation is None or self.validation.best_by is None:
            del data["validation"]  # it only looks
        return data

    def recipe_hash(self) -> str:
        """Short hash of `determining()`: equal for recipes that train the same weights from the same data."""
        text = json.dumps(without_plain_scale(self.determining()), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
