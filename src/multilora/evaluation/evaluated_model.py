"""What is evaluated: the run, adapter or model that a user names, with its base model, and loading it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE
from multilora.base.loading import ModelSource, weights_dtype
from multilora.errors import InputError
from multilora.recipe import ModelSection, Recipe
from multilora.recipe.file import load_recipe
from multilora.runs.find import Adapter, Comparison, Run, find
from multilora.tuner.keys import current_key


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate.

    Attributes:
        source: the model without an adapter, with its tokenizer.
        adapter: folder of the adapter on it; None: the model as it is.
        recipe: which names the tasks; None: none was given.
        precision: the recipe that says in which dtype; None: the model's own.
        place: where results go unless a folder is named: the folder to put it in, and how its name begins.
    """

    source: ModelSource
    adapter: Path | None
    recipe: Recipe | None
    precision: Recipe | None
    place: tuple[Path, str]

    @classmethod
    def find(cls, target: str, recipe: Path | None, base: bool, trust_remote_code: bool) -> EvaluatedModel:
        """Find out what the target is. Reads no weights and makes no network request.

        Args:
            target: a run folder, a folder with an adapter or a model, or a model's id on the hub.
            recipe: names the tasks, and an adapter's base model; a run folder has its own recipe, which says for its
                adapter/ how the base model is quantised.
            base: the base model without the adapter, or before full fine-tuning.
            trust_remote_code: run code that comes with the model, whatever the recipe says.

        Raises:
            InputError: there is no such thing, or it is not complete.
        """
        given = load_recipe(recipe) if recipe else None
        found = find(target, keep_unset=False)
        if isinstance(found, Comparison):
            raise InputError(
                f"{target!r} is a comparison, which tested its cells itself; name one of them "
                "(cells/METHOD/REGIME/seed-N)"
            )
        if isinstance(found, Run):
            return cls._of_run(found, given, base, trust_remote_code)
        if isinstance(found, Adapter):
            section = given.model if given else ModelSection.model_validate({"path": _base_of(found.path)})
            precision = given
            if given is None and (run := found.run()) is not None and run.recipe.model.quantization is not None:
                section = section.model_copy(update={"quantization": run.recipe.model.quantization})
                precision = run.recipe
            source, folder = _source(section, trust_remote_code), found.path.resolve()
            return cls(source, None if base else found.path, given, precision, (folder.parent, f"{folder.name}-"))
        if base:
            raise InputError(f"--base has no effect: {target!r} is a model, without an adapter to leave out")
        source = _source(ModelSection.model_validate({"path": target}), trust_remote_code)
        return cls(source, None, given, given, (Path(), f"{target.strip('/').replace('/', '--')}-"))

    @classmethod
    def _of_run(cls, run: Run, given: Recipe | None, base: bool, trust_remote_code: bool) -> EvaluatedModel:
        own, weights = run.recipe, run.weights
        full = own.method.name == "full"
        if not base:
            run.check_finished(remedy=", with --recipe")
        trained = {"path": str(weights), "trust_remote_code": own.model.trust_remote_code}
        section = ModelSection.model_validate(trained) if full and not base else own.model
        source = _source(section, trust_remote_code)
        return cls(source, None if base or full else weights, given or own, own, (run.path, ""))

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights: as in training, or the model's own."""
        if self.precision is not None:
            return weights_dtype(self.precision.method, self.precision.training.precision)
        self.source.check_config()
        config: Any = AutoConfig.from_pretrained(self.source.location, **self.source.options)
        return getattr(config, "dtype", None) or torch.float32

    def load(self, dequantized: bool = False) -> tuple[Any, Any]:
        """The model in eval mode on the GPU, if there is one, and its tokenizer.

        Args:
            dequantized: weights in 4 or 8 bits as the numbers that they stand for, into which an adapter can be merged.

        Raises:
            InputError: a part cannot be read, or the adapter does not fit the model.
        """
        tokenizer = self.source.tokenizer()
        model = self.source.model(self.dtype)
        if dequantized and getattr(model, "is_quantized", False):
            model = model.dequantize(dtype=self.dtype)
        if self.adapter is not None:
            model = _with_adapter(model, self.adapter, self.source.location)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _source(section: ModelSection, trust_remote_code: bool) -> ModelSource:
    return ModelSource.find(section.model_copy(update={"trust_remote_code": True}) if trust_remote_code else section)


def _base_of(adapter: Path) -> str:
    file = adapter / CONFIG_FILE
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    base = cast(dict[str, Any], raw).get("base_model_name_or_path") if isinstance(raw, dict) else None
    if not isinstance(base, str) or not base:
        raise InputError(f"{file}: base_model_name_or_path is {base!r}; name the base model in a recipe (--recipe)")
    return base


def _with_adapter(model: Any, adapter: Path, base: str) -> Any:
    """PEFT only warns of weights that the adapter lacks, which are then random, and not at all of those too many."""
    fault = f"the adapter in {str(adapter)!r} does not fit the model {base!r}"
    remedy = "name the base model that it was trained on (--recipe), or fetch its files again"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        # PEFT's and torch's words for a file that is missing or cut off, and for shapes and names that do not fit.
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{fault}: {reason}; {remedy}") from error
    if lacking := [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]:
        raise InputError(f"{fault}: {' '.join(lacking[0].split())[:300]}; {remedy}")
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(adapted.active_peft_config.peft_type)
    if prefix and (adapter / WEIGHTS_FILE).is_file():
        with safe_open(adapter / WEIGHTS_FILE, framework="pt") as file:
            saved = {current_key(key) for key in file.keys() if prefix in key}  # noqa: SIM118 - the file is no mapping
        if over := sorted(saved - get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()):
            raise InputError(
                f"{fault}: it has {len(over)} weights that the model has no place for: {over[0]!r}; {remedy}"
            )
    return adapted
