"""The objective of supervised fine-tuning: TRL's loss, and beside it each task's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from multilora.recipe import TrainingSection
from multilora.training.batches import TASK_IDS
from multilora.training.task_losses import TaskLosses
from multilora.training.trainer import MixtureTrainer


def sft_arguments(training: TrainingSection, steps: int, output: Path, autocast: bool) -> SFTConfig:
    """The training section as TRL's arguments. Sets every default of TRL that matters.

    Args:
        training: the section.
        steps: optimizer steps of the whole run.
        output: the run folder.
        autocast: compute in bf16 with weights in fp32.
    """
    schedulers = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
    return SFTConfig(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        optim="adamw_torch_fused",
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type=schedulers[training.scheduler],
        warmup_steps=math.ceil(training.warmup * steps),
        max_grad_norm=training.max_grad_norm or 0.0,  # 0: no clipping
        # TRL turns bf16 autocast on by default. Adapters need none: a bf16 base computes in bf16 by itself.
        bf16=autocast,
        fp16=False,
        use_cpu=not torch.accelerator.is_available(),  # said, or transformers refuses bf16 there
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        seed=training.seed,
        save_strategy="steps",
        save_steps=training.save_every,
        save_total_limit=None,  # ours: it must run after the rename
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to=list(training.report_to) or "none",
        disable_tqdm=True,
        log_level="error",
        # Every trained parameter takes part in every step, and no buffer changes.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        # The rows are encoded, and the collator needs the column that no model takes.
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        packing=False,
        padding_free=False,
        completion_only_loss=False,
    )


class SftTrainer(MixtureTrainer, SFTTrainer):
    """Minimises the mean loss of the tokens that are learnt; arguments as for `MixtureTrainer`."""

    def __init__(self, model: Any, args: SFTConfig, tasks: Sequence[str], *others: Any, **options: Any) -> None:
        self._task_losses = TaskLosses(tasks)
        super().__init__(model, args, tasks, *others, **options)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, which is the sum of the model's per-token log-probabilities.

        The tasks' losses are made of the same ones: no second forward pass and no logits are needed, and the loss is
        TRL's to the bit.
        """
        task_ids: Tensor = inputs.pop(TASK_IDS)
        seen: list[Any] = []

        def remembering(**kwargs: Any) -> Any:
            seen.append(model(**kwargs))
            return seen[-1]

        result = super().compute_loss(cast(Any, remembering), inputs, return_outputs, num_items_in_batch)
        self.observe(result[0] if return_outputs else result, self._task_losses.tokens(task_ids))
        if model.training:
            self._task_losses.add(seen[0].log_probs, seen[0].label_mask, task_ids)
        return result

    def signals(self) -> dict[str, float]:
        """`loss/NAME` and `tokens/NAME` of the tasks seen since the last call."""
        self._task_losses.reduce(self.accelerator)
        return self._task_losses.taken()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._metrics["train"].pop("num_tokens", None)  # TRL's count begins at zero again when a run is resumed
        super().log(logs, start_time)
