"""The processes of one run, started by torchrun: which is the main one, what all know, and errors that all see."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from multilora.errors import InputError
from multilora.recipe import HardwareSection
from multilora.storage.folders import written_aside

T = TypeVar("T")

_OTHER_ENGINES = ("DEEPSPEED", "FSDP", "MEGATRON_LM")  # which `accelerate launch` announces
_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The others wait this long for one that reads or evaluates. A process that ended is noticed at once.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. A single process sends nothing and waits for nothing.

    Attributes:
        index: this process's number, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """The processes that torchrun started, connected to each other; without torchrun, one.

        Raises:
            InputError: they cannot be connected, or the machine has GPUs but fewer than processes; one process
                sees several GPUs.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        gpus = torch.cuda.device_count()
        if count == 1:
            if gpus > 1:
                raise InputError(
                    f"{gpus} GPUs are visible and one process trains on one; choose it, for example with "
                    "CUDA_VISIBLE_DEVICES=0, or start a process for each: torchrun --nproc_per_node "
                    f"{gpus} -m multilora_cli.main train RECIPE"
                )
            return cls()
        if lacking := [name for name in _NEEDED if name not in os.environ]:
            raise InputError(
                f"the environment variable WORLD_SIZE is {count}, and {', '.join(lacking)} not set; start several "
                f"processes with torchrun --nproc_per_node {count}, or unset WORLD_SIZE"
            )
        local = int(os.environ["LOCAL_RANK"])
        if gpus:
            if local >= gpus:
                raise InputError(
                    f"process {local} of this machine has no GPU: {gpus} are visible; start at most as many "
                    "with torchrun --nproc_per_node"
                )
            torch.cuda.set_device(local)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
            atexit.register(_disconnect)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.index == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their numbers, in every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in every process. (…) on the CPU; changed in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    @contextmanager
    def together(self) -> Generator[None]:
        """All processes get through the block, or none does: what is wrong in one is raised in all.

        Nothing may be sent or waited for within the block, as a process that has failed takes no part in it.

        Raises:
            InputError: as the block of any process, with the same message in all of them.
            RuntimeError: in the others, where the block of a process raised anything else.
        """
        if self.count == 1:
            yield
            return
        fault: Exception | None = None
        try:
            yield
        except Exception as error:  # raised again below, when the others know
            fault = error
        message = None if fault is None else (isinstance(fault, InputError), f"{fault}")
        faults = [(index, *each) for index, each in enumerate(self.gather(message)) if each is not None]
        if not faults:
            return
        index, is_input, text = faults[0]
        if fault is not None and (index == self.index or not isinstance(fault, InputError)):
            raise fault
        raise InputError(text) if is_input else RuntimeError(f"process {index} failed: {text}")

    def by_main(self, function: Callable[[], T]) -> T:
        """Have the main process do something; every process gets the result, or the error as `together` raises it."""
        result: list[T | None] = [None]
        with self.together():
            if self.main:
                result[0] = function()
        if self.count > 1:
            dist.broadcast_object_list(result, src=0)
        return cast(T, result[0])

    @contextmanager
    def written_aside(self, final: Path, aside: Path) -> Generator[Path]:
        """`storage.folders.written_aside` for a folder into which all processes write, each its own files."""
        stack = ExitStack()
        self.by_main(lambda: stack.enter_context(written_aside(final, aside)))
        with stack:  # cleans up after an error
            with self.together():
                yield aside
            self.by_main(stack.close)  # no process continues before the folder is in its place


def is_sharded(hardware: HardwareSection, quantized: bool, processes: Processes) -> bool:
    """Whether the model is to be divided among the processes.

    Args:
        hardware: how many devices there are, and whether they share the model.
        quantized: the base model is.
        processes: of the run.

    Raises:
        InputError: it does, and the processes are not as many as it has devices, or the base model is quantised; they
            were started for an engine that is not used here.
    """
    for engine in _OTHER_ENGINES:
        if os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() == "true":
            raise InputError(
                f"ACCELERATE_USE_{engine}=true: `multilora train` does not run on accelerate's {engine}. Start it with "
                "torchrun, and set hardware.sharding: full to divide the model among the processes; "
                f"docs/distributed.md describes how to use {engine} in your own script"
            )
    if hardware.sharding == "none":
        return False
    if quantized:
        raise InputError(
            "model.quantization and hardware.sharding: full exclude each other in training: packed weights cannot be "
            "divided by rows. Set hardware.sharding to none, or leave out model.quantization"
        )
    if processes.count != hardware.devices:
        raise InputError(
            f"hardware.sharding: full divides the model among hardware.devices: {hardware.devices}, one process each, "
            f"and there {'is one process' if processes.count == 1 else f'are {processes.count} processes'}; start "
            f"torchrun --nproc_per_node {hardware.devices} -m multilora_cli.main train RECIPE, or "
            + (
                "--set hardware.sharding=none"
                if processes.count == 1
                else f"--set hardware.devices={processes.count} (`multilora plan` says what each then takes)"
            )
        )
    return True


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
