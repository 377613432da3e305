"""The trainer: TRL's `SFTTrainer` on our own encoded batches, with checkpoints that are complete or absent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from multilora.base.quantization import trained_in_fp32
from multilora.errors import InputError
from multilora.recipe import FullMethod, Recipe
from multilora.training.batches import TASK_IDS
from multilora.training.checkpoints import Checkpoints
from multilora.training.loading import Loading
from multilora.training.processes import Processes
from multilora.training.sharding import load_weights, own_state, whole_state, whole_weights
from multilora.training.task_losses import TaskLosses
from multilora.tuner.optimizer import optimizer_groups


def trainer_arguments(recipe: Recipe, steps: int, output: Path) -> SFTConfig:
    """The recipe's training section as TRL's arguments. Every default of TRL's that matters is said here.

    Args:
        recipe: the recipe.
        steps: optimizer steps of the whole run.
        output: the run folder.
    """
    training = recipe.training
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
        bf16=training.precision == "bf16" and isinstance(recipe.method, FullMethod),
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


class MixtureTrainer(SFTTrainer):
    """Trains on a mixture of tasks.

    Args:
        model: the model with its method applied.
        recipe: the recipe.
        steps: optimizer steps of the whole run.
        output: the run folder.
        loading: the batches.
        tokenizer: the model's.
        processes: of the run.
        sharded: the model is divided among them.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        steps: int,
        output: Path,
        loading: Loading,
        tokenizer: Any,
        processes: Processes,
        sharded: bool = False,
    ) -> None:
        self._recipe, self._loading, self.processes, self._sharded = recipe, loading, processes, sharded
        self._whole_weights: dict[str, Tensor] | None = None
        self._tokens = 0
        self._step_tasks: Counter[str] = Counter()
        self._task_losses = TaskLosses(list(recipe.tasks))
        self.checkpoints = Checkpoints(output / "checkpoints")
        with trained_in_fp32(model):
            super().__init__(
                model=model,
                args=trainer_arguments(recipe, steps, output),
                # Neither is used (`get_train_dataloader`), and SFTTrainer's constructor does not do without.
                data_collator=_unused,
                train_dataset=datasets.Dataset.from_dict({"input_ids": [[0]]}),
                processing_class=tokenizer,
            )
        self.remove_callback(PrinterCallback)
        if sharded:  # `evaluation_mode` wraps nothing around the model; FSDP2 sums the gradients
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self._sharded:  # or it is there
            super()._move_model_to_device(model, device)  # pyright: ignore[reportArgumentType]

    def _send_telemetry(self) -> None:
        """Training tells nobody that it runs."""

    # Batches and optimizer ----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process; so accelerate has nothing to share out among the processes."""
        return self._loading.loader()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        with self.processes.together():  # a stream finds bad rows as it goes
            batches = list(islice(epoch_iterator, num_batches))
        return super().get_batch_samples(iter(batches), num_batches, device)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """All but padding, as counted in `compute_loss`. transformers would ask the attention mask, or for pad ids."""
        self.state.num_input_tokens_seen += self._tokens

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            module = cast(nn.Module, self.model if model is None else model)
            groups = optimizer_groups(
                module,
                self.get_decay_parameter_names(module),
                self.args.learning_rate,
                self.args.weight_decay,
                self._recipe.training.scaling_lr_ratio,
            )
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, module)  # pyright: ignore[reportArgumentType]
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    # Loss that is a number ------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # TRL's loss is the sum of the model's per-token log-probabilities; we look at the same ones, so no second
        # forward and no logits are needed, and the loss is TRL's to the bit.
        task_ids: Tensor = inputs.pop(TASK_IDS)
        seen: list[Any] = []

        def remembering(**kwargs: Any) -> Any:
            seen.append(model(**kwargs))
            return seen[-1]

        result = super().compute_loss(cast(Any, remembering), inputs, return_outputs, num_items_in_batch)
        loss: Tensor = result[0] if return_outputs else result
        # Of all processes, so that all of them stop together: a loss that is no number stays one in the sum.
        tokens = self._task_losses.tokens(task_ids)
        mean = loss.detach().double().cpu().view(1) / self.processes.count
        whole = self.processes.sum(torch.cat([mean, torch.from_numpy(tokens).double()]))
        of_batch = Counter(
            {name: int(count) for name, count in zip(self._recipe.tasks, whole[1:], strict=True) if count}
        )
        self._tokens = of_batch.total()
        self._step_tasks.update(of_batch)
        if not bool(whole[0].isfinite()):
            self._stop(f"the loss is {whole[0].item()}", of_batch)
        if model.training:
            self._task_losses.add(seen[0].log_probs, seen[0].label_mask, task_ids)
        return result

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        if not math.isfinite(float(grad_norm)):
            self._stop(f"the gradient's norm is {float(grad_norm)}", self._step_tasks)
        self._step_tasks.clear()
        return grad_norm

    def _stop(self, what: str, tasks: Counter[str]) -> None:
        """Before the optimizer's step: the weights are still good, and so is the last checkpoint."""
        last = self.checkpoints.last()
        batch = ", ".join(f"{name} ({count} tokens)" for name, count in tasks.most_common())
        raise InputError(
            f"{what} at step {self.state.global_step + 1}; tasks in the batch: {batch}. Stopped before the weights "
            f"changed. {f'Kept: {last}' if last else 'There is no checkpoint yet'}. Try a lower training.learning_rate "
            "or a longer training.warmup, and look at the rows of these tasks"
        )

    # Logging ----------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The whole training is one pass of the loader; an epoch is as many rows as the tasks have.
        # None, of a stream, is not logged.
        self.state.epoch = cast(float, self._loading.epochs(self.state.global_step))
        self._metrics["train"].pop("num_tokens", None)  # TRL's count begins at zero again when a run is resumed
        if "loss" in logs:  # not the trainer's closing summary
            self._task_losses.reduce(self.accelerator)
            logs |= self._task_losses.taken()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not estimated: transformers would count all parameters in every forward pass."""
        return 0

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.incomplete)

    def whole_weights(self) -> dict[str, Tensor] | None:
        """For `save_weights`: what a divided model is written as; None: it is not divided. All processes call this."""
        return whole_weights(self.model) if self._sharded else None  # pyright: ignore[reportArgumentType]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        # What is divided is gathered here: nobody waits for another one between two files.
        self._whole_weights = self.whole_weights()
        with (
            self._whole_optimizer() if self._sharded else nullcontext(),
            self.processes.written_aside(self.checkpoints.folder / name, self.checkpoints.incomplete / name),
        ):
            # Not SFTTrainer's, which writes a model card beside the run. It communicates before it writes, not after.
            Trainer._save_checkpoint(self, model, trial)
        self._whole_weights = None
        self.processes.by_main(lambda: self.checkpoints.keep(self._recipe.training.keep_checkpoints))

    @contextmanager
    def _whole_optimizer(self) -> Generator[None]:
        """Meanwhile the optimizer's state is that of an undivided model, for the trainer to write."""
        optimizer: torch.optim.Optimizer = self.optimizer.optimizer
        whole = whole_state(optimizer.state_dict())
        hook = optimizer.register_state_dict_post_hook(lambda _optimizer, _state: whole)
        try:
            yield
        finally:
            hook.remove()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Weights and their configuration; neither the tokenizer, which is the base model's, nor pickled arguments."""
        assert output_dir is not None
        if self.processes.main:
            weights = self._whole_weights if self._sharded else state_dict
            save_weights(self.accelerator.unwrap_model(self.model), Path(output_dir), weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._sharded:
            with self.processes.together():
                load_weights(cast(nn.Module, self.model), Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # The trainer would read all of the state onto each device.
        optimizer: torch.optim.Optimizer = self.optimizer.optimizer
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True, mmap=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        optimizer.load_state_dict(own_state(state, optimizer))
        cast(Any, self.lr_scheduler).load_state_dict(schedule)


def _unused(rows: list[Any]) -> dict[str, Any]:
    raise AssertionError(f"the trainer's own collator was called, with {rows}")


def save_weights(model: Any, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write the adapter, or the whole model if it has none, as safetensors with its configuration."""
    # Embeddings are never resized here; left to itself PEFT would ask the hub at every save whether they were.
    options: dict[str, Any] = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(str(folder), state_dict=state_dict, **options)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card is an empty form
