"""The model card of a merged model."""

from __future__ import annotations

from multilora.merging.plan import MergePlan
from multilora.storage.model_card import Card, hub_id, table
from multilora.storage.safetensors import dtype_name
from multilora.tuner.card import PAPER, pipeline_tag


def merge_card(plan: MergePlan) -> Card:
    """What there is to say of the result of a merge. Names only, no paths and no times."""
    files = [adapter for adapter, _ in plan.adapters]
    named = {str(raw) for file in files if (raw := file.adapter_config.raw.get("base_model_name_or_path"))}
    base = hub_id(next(iter(named))) if len(named) == 1 else None
    name = base or plan.base.folder.resolve().name
    pipelines = {pipeline_tag(file.adapter_config.raw) for file in files}
    methods = {file.adapter_config.method for file in files}
    rows = [
        (
            f"`{file.folder.resolve().name}`",
            {"multilora": f"[MultiLoRA]({PAPER})", "lora": "LoRA"}[file.adapter_config.method],
            f"{weight:g}",
            f"{len(file.layers):,}",
        )
        for file, weight in plan.adapters
    ]
    stored = (
        "each tensor in the base model's own type" if plan.dtype is None else f"all tensors in {dtype_name(plan.dtype)}"
    )
    adapters = "an adapter" if len(files) == 1 else f"{len(files)} adapters"
    return Card(
        title=f"{name} with {adapters} merged",
        text=f"{name} with {adapters} added to its weights by `multilora merge`, {stored}. It loads as {name} does, "
        "without multilora or PEFT. What rounding changed is in `merge_report.json`.",
        metadata={
            "base_model": base,
            "library_name": "transformers",
            "pipeline_tag": pipelines.pop() if len(pipelines) == 1 else None,
            "tags": ["merge", *methods, *([f"base_model:finetune:{base}"] if base else [])],
        },
        sections=(("Adapters", table(("adapter", "method", "weight", "adapted layers"), rows)),),
    )
