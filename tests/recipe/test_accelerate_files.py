"""recipes/accelerate: accelerate reads each file as it is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType

from places import ROOT

FOLDER = ROOT / "recipes" / "accelerate"
TYPES = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP, "zero3": DistributedType.DEEPSPEED}


def launch_arguments(path: Path) -> Any:
    """What `accelerate launch` makes of a file."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "--num_processes", "2", "script.py"])
    return _validate_launch_command(arguments)[0]


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == TYPES.keys()


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_loads_the_file(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == TYPES[name]
    assert not config.use_cpu


def test_fsdp2_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = launch_arguments(FOLDER / "fsdp2.yaml")
    assert arguments.use_fsdp
    environment = prepare_multi_gpu_env(arguments)
    for name, value in environment.items():
        if name.startswith(("FSDP_", "ACCELERATE_")) and os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert plugin.cpu_ram_efficient_loading is True
    block = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(block)
    model._no_split_modules = {"Linear"}  # type: ignore[assignment]
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy(module=block, recurse=False, nonwrapped_numel=0)


def test_zero3_is_what_is_asked_for() -> None:
    config = load_config_from_file(str(FOLDER / "zero3.yaml")).deepspeed_config
    assert config["zero_stage"] == 3
    assert config["zero3_init_flag"] is True
    assert config["zero3_save_16bit_model"] is True
