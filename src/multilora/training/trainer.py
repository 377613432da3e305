"""The mechanics of training, whatever the objective: our own batches, complete checkpoints, resuming, sharding.

An objective (`sft.py`) is a class of this one and a trainer of TRL's, in this order: `compute_loss` is TRL's, and calls
`observe`; `signals` are what it measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from multilora.base.quantization import trained_in_fp32
from multilora.errors import InputError
from multilora.runs.layout import RunLayout
from multilora.training.checkpoints import Checkpoints
from multilora.training.loading import Loading
from multilora.training.processes import Processes
from multilora.training.sharding import load_weights, own_state, whole_state, whole_weights
from multilora.tuner.optimizer import param_groups


class MixtureTrainer(Trainer):
    """Trains on a mixture of tasks; to be put before a trainer of TRL's among the bases of an objective.

    Args:
        model: the model with its method applied.
        args: TRL's arguments (`run_arguments`).
        tasks: the tasks' names, in the order of their numbers.
        loading: the batches.
        tokenizer: the model's.
        processes: of the run.
        sharded: the model is divided among them.
        scaling_lr_ratio: the learned scale's learning rate as a multiple of that of `args`.
        keep_checkpoints: how many of the newest checkpoints stay.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig,
        tasks: Sequence[str],
        loading: Loading,
        tokenizer: Any,
        processes: Processes,
        sharded: bool = False,
        *,
        scaling_lr_ratio: float = 1.0,
        keep_checkpoints: int = 2,
    ) -> None:
        self._tasks, self._loading, self.processes, self._sharded = list(tasks), loading, processes, sharded
        self._scaling_lr_ratio, self._keep_checkpoints = scaling_lr_ratio, keep_checkpoints
        self._whole_weights: dict[str, Tensor] | None = None
        self._tokens = 0
        self._step_tasks: Counter[str] = Counter()
        self.checkpoints = Checkpoints(RunLayout(Path(cast(str, args.output_dir))).checkpoints)
        with trained_in_fp32(model):
            super().__init__(
                model=model,
                args=args,
                # Neither is used (`get_train_dataloader`), and the constructors of TRL's trainers do not do without.
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
        """Sends nothing."""

    # Batches and optimizer ----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process: accelerate has nothing to share out among the processes."""
        return self._loading.loader()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        with self.processes.together():  # a stream finds bad rows as it goes
            batches = iter(list(islice(epoch_iterator, num_batches)))
        return super().get_batch_samples(batches, num_batches, device)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Count all tokens but padding, as `observe` does. transformers would read the attention mask or pad ids."""
        self.state.num_input_tokens_seen += self._tokens

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            module = cast(nn.Module, self.model if model is None else model)
            groups = param_groups(
                module,
                self.args.learning_rate,
                scaling_lr_ratio=self._scaling_lr_ratio,
                weight_decay=self.args.weight_decay,
            )
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, module)  # pyright: ignore[reportArgumentType]
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    # What the objective reports ---------------------------------------------------------------------------------------

    def observe(self, loss: Tensor, tokens: NDArray[np.int64]) -> None:
        """Called by the objective with each batch, in all processes at once.

        Args:
            loss: of the batch, in this process.
            tokens: (tasks,) how many tokens of the batch, prompts too, each task has.

        Raises:
            InputError: the mean loss of all processes is not a number.
        """
        # Of all processes, so that all of them stop together: a loss that is no number stays one in the sum.
        mean = loss.detach().double().cpu().view(1) / self.processes.count
        whole = self.processes.sum(torch.cat([mean, torch.from_numpy(tokens).double()]))
        of_batch = Counter({name: int(count) for name, count in zip(self._tasks, whole[1:], strict=True) if count})
        self._tokens = of_batch.total()
        self._step_tasks.update(of_batch)
        if not bool(whole[0].isfinite()):
            self._stop(f"the loss is {whole[0].item()}", of_batch)

    def signals(self) -> dict[str, float]:
        """What the objective measured since the last call, over all processes: logged beside the loss."""
        return {}

    # Numbers that are numbers -----------------------------------------------------------------------------------------

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
        # The loader is passed once; an epoch is as many rows as the tasks have. None, of a stream, is not logged.
        self.state.epoch = cast(float, self._loading.epochs(self.state.global_step))
        if "loss" in logs:  # not the trainer's closing summary
            logs |= self.signals()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not estimated: transformers would count all parameters in every forward pass."""
        return 0

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.incomplete)

    def whole_weights(self) -> dict[str, Tensor] | None:
        """The weights of a divided model for `save_weights`; None if it is not divided. All processes call this."""
        return whole_weights(self.model) if self._sharded else None  # pyright: ignore[reportArgumentType]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        # Gather divided weights here, so that no process waits for another between two files.
        self._whole_weights = self.whole_weights()
        with (
            self._whole_optimizer() if self._sharded else nullcontext(),
            self.processes.written_aside(self.checkpoints.folder / name, self.checkpoints.incomplete / name),
        ):
            # Not TRL's, which writes a model card beside the run. It communicates before it writes, not after.
            Trainer._save_checkpoint(self, model, trial)
        self._whole_weights = None
        self.processes.by_main(lambda: self.checkpoints.keep(self._keep_checkpoints))

    @contextmanager
    def _whole_optimizer(self) -> Generator[None]:
        """Within the block, the optimizer's state is that of an undivided model, so that the trainer can write it."""
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
