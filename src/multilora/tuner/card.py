"""The model card of an adapter: what it is, its shapes, and how to load it with and without this package."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME

from multilora.storage.model_card import Card, hub_id, table, write_card
from multilora.storage.safetensors import natural_order, read_header

PAPER = "https://arxiv.org/abs/2311.11501"

# PEFT's class that finds the base model by itself, and the Hub's name of what the model is for.
TASKS: Mapping[str, tuple[str, str]] = {
    "CAUSAL_LM": ("AutoPeftModelForCausalLM", "text-generation"),
    "SEQ_2_SEQ_LM": ("AutoPeftModelForSeq2SeqLM", "text2text-generation"),
    "SEQ_CLS": ("AutoPeftModelForSequenceClassification", "text-classification"),
    "TOKEN_CLS": ("AutoPeftModelForTokenClassification", "token-classification"),
    "QUESTION_ANS": ("AutoPeftModelForQuestionAnswering", "question-answering"),
    "FEATURE_EXTRACTION": ("AutoPeftModelForFeatureExtraction", "feature-extraction"),
}


def write_adapter_card(values: Mapping[str, Any], folder: Path, has_weights: bool) -> None:
    """Write the card of an adapter that is being saved.

    Args:
        values: its configuration, as `to_dict` gives it.
        folder: where it is saved.
        has_weights: its tensors are written already.
    """
    file = folder / SAFETENSORS_WEIGHTS_NAME
    shapes = (
        {name: tensor.shape for name, tensor in read_header(file)[0].items()} if has_weights and file.is_file() else {}
    )
    write_card(folder, adapter_card(values, shapes))


def adapter_card(values: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Card:
    """What there is to say of an adapter.

    Args:
        values: its configuration, as `to_dict` gives it.
        shapes: of its tensors, by their names in the file; empty if unknown.
    """
    return Card(
        title=title("MultiLoRA", values),
        text=(
            f"An adapter of [MultiLoRA]({PAPER}) for [PEFT](https://github.com/huggingface/peft): on each adapted "
            f"layer {values['num_loras']} LoRA modules work in parallel, each with a learned scale."
        ),
        metadata=adapter_metadata(values, "multilora"),
        sections=(("Loading", _loading(values)), ("Method", _method(values, shapes))),
    )


def adapter_metadata(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Front matter of an adapter.

    Args:
        values: its configuration as in adapter_config.json.
        method: its name as a tag.
    """
    base = hub_id(values.get("base_model_name_or_path"))
    tags = [method, "peft", *([f"base_model:adapter:{base}"] if base else [])]
    return {"base_model": base, "library_name": "peft", "pipeline_tag": pipeline_tag(values), "tags": tags}


def pipeline_tag(values: Mapping[str, Any]) -> str | None:
    """The Hub's name of what a model with the adapter is for; None if unknown."""
    _, pipeline = TASKS.get(_task(values), ("", None))
    return pipeline


def title(method: str, values: Mapping[str, Any]) -> str:
    """The heading of an adapter's card."""
    named = values.get("base_model_name_or_path")
    base = hub_id(named) or Path(str(named or "").rstrip("/")).name
    return f"{method} adapter of {base}" if base else f"{method} adapter"


def loading_code(values: Mapping[str, Any]) -> str:
    """Python that loads an adapter with PEFT."""
    kind, _ = TASKS.get(_task(values), ("", None))
    if kind and hub_id(values.get("base_model_name_or_path")):
        lines = [f"from peft import {kind}", "", f'model = {kind}.from_pretrained("ADAPTER")']
    else:
        lines = ["from peft import PeftModel", "", 'model = PeftModel.from_pretrained(base_model, "ADAPTER")']
    return "\n".join(["```python", *lines, "```"])


def _loading(values: Mapping[str, Any]) -> str:
    rank = values["num_loras"] * max([values["r"], *values["rank_pattern"].values()])
    more = values["modules_to_save"] or values["bias"] != "none" or values["trainable_token_indices"]
    without = (
        "This adapter has more than LoRA modules (trained modules, biases or tokens), so no other form of adapter "
        "holds it: where multilora is installed, `model.merge_and_unload()` gives a model that needs neither."
        if more
        else f"As a plain LoRA of rank {rank}, with the same answers, it loads without multilora, in PEFT, vLLM and "
        "others: `multilora export ADAPTER LORA` where multilora is installed."
    )
    return (
        "```bash\npip install multilora\n```\n\nis enough; no `import multilora` is needed. ADAPTER is "
        "this folder, or its id on the Hub:\n\n"
        f"{loading_code(values)}\n\n"
        f"Without multilora PEFT stops with `KeyError: 'MULTILORA'`. {without}"
    )


def _method(values: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> str:
    others = " (some layers have another one: `rank_pattern`)" if values["rank_pattern"] else ""
    rows: list[tuple[str, object]] = [
        ("LoRA modules per layer (`num_loras`)", values["num_loras"]),
        ("rank of each module (`r`)", f"{values['r']}{others}"),
        ("rank of all together", f"{values['num_loras'] * values['r']}"),
        (
            "constant factor (`lora_alpha`)",
            "`r`, so that it is 1" if values["lora_alpha"] is None else values["lora_alpha"],
        ),
        ("learned scale (`scaling`)", _scale(values)),
        ("dropout (`lora_dropout`)", values["lora_dropout"]),
    ]
    if layers := sorted({found[1] for key in shapes if (found := _LAYER.match(key))}, key=natural_order):
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
        rows.append(("adapted layers", f"{len(layers):,}: {', '.join(f'`{kind}`' for kind in kinds)}"))
        rows.append(("parameters in the file", f"{sum(math.prod(shape) for shape in shapes.values()):,}"))
    if values["modules_to_save"]:
        rows.append(("modules trained in full", ", ".join(f"`{name}`" for name in values["modules_to_save"])))
    return table(("", ""), rows)


def _scale(values: Mapping[str, Any]) -> str:
    if values["scaling"] == "none":
        return "none"
    return f"{values['scaling']}, {values['scaling_function']} with the constant {values['scaling_constant']:g}"


_LAYER = re.compile(r"(.+)\.multilora_A(?:\.|$)")


def _task(values: Mapping[str, Any]) -> str:
    task = values.get("task_type")
    return str(getattr(task, "value", task))
