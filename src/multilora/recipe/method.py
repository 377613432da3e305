"""The method of a recipe: multilora, lora or full."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from peft import LoraConfig, PeftConfig
from pydantic import Field, model_validator

from multilora.fields import Integer, Number, Section
from multilora.tuner.config import MultiLoraConfig, Scaling
from multilora.tuner.factors import ScalingFunction
from multilora.tuner.initialization import InitWeights


def _of_peft(name: str) -> Any:
    """The help text of a field of `MultiLoraConfig`, so that it is written only once."""
    return MultiLoraConfig.__dataclass_fields__[name].metadata["help"]


class _TargetsSection(Section):
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
    scaling_function: ScalingFunction | None = Field(None, description=_of_peft("scaling_function"))
    scaling_constant: Number | None = Field(None, gt=0, description=_of_peft("scaling_constant"))
    init_weights: bool | InitWeights = Field(True, description=_of_peft("init_weights"))
    bias: Literal["none", "all", "multilora_only"] = Field("none", description=_of_peft("bias"))

    def resolved(self) -> dict[str, Any]:
        """The section as plain data; the scale's function and constant as they are, so that a run records them."""
        config = self.peft_config()
        scale = {"scaling_function": config.scaling_function, "scaling_constant": config.scaling_constant}
        return self.model_dump(mode="json") | scale

    def peft_config(self) -> MultiLoraConfig:
        return MultiLoraConfig(task_type="CAUSAL_LM", **self.model_dump(exclude={"name"}))


def as_recorded(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe in today's words: before the scale had a function and a constant it was linear, with 1."""
    method: Any = recipe.get("method")
    if not isinstance(method, dict) or method.get("name") != "multilora" or "scaling_function" in method:
        return recipe
    return recipe | {"method": method | {"scaling_function": "linear", "scaling_constant": 1.0}}


def without_plain_scale(recipe: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe as it is hashed: the linear scale with constant 1 is left out, as before there were others."""
    method = recipe["method"]
    if (method.get("scaling_function"), method.get("scaling_constant")) != ("linear", 1.0):
        return recipe
    kept = {key: value for key, value in method.items() if key not in ("scaling_function", "scaling_constant")}
    return recipe | {"method": kept}


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


class FullMethod(Section):
    """Full fine-tuning: every weight of the model is trained."""

    name: Literal["full"] = Field(description="The method.")
