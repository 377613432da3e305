"""mlx-lm's rules for adapters in NumPy: which layers get one, what a tensor may be called, what is computed.

After `mlx_lm/tuner/utils.py` (`linear_to_lora_layers`, `load_adapters`) and `tuner/lora.py` (`LoRALinear`) of mlx-lm
0.32; it shares nothing with the writer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.floating]


def delta_weights(folder: Path, shapes: dict[str, tuple[int, int]], blocks: str, count: int) -> dict[str, Array]:
    """What mlx-lm adds to each weight: name to (d_out, d_in); zeros for a LoRA layer that the file says nothing of.

    Args:
        folder: the adapter.
        shapes: mlx-lm's name of every linear layer of the model to (d_out, d_in).
        blocks: mlx-lm's name of the list of blocks, such as "model.layers".
        count: number of blocks.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    parameters = config["lora_parameters"]
    rank, scale, keys = parameters["rank"], parameters["scale"], set(parameters["keys"])
    assert parameters["dropout"] == 0.0
    adapted = {name for name in shapes if name in keys}
    for index in list(range(count))[-max(config["num_layers"], 0) :]:
        prefix = f"{blocks}.{index}."
        adapted |= {name for name in shapes if name.startswith(prefix) and name.removeprefix(prefix) in keys}
    lora_a = {name: np.full((shapes[name][1], rank), np.nan) for name in adapted}  # random in mlx-lm: must not matter
    lora_b = {name: np.zeros((rank, shapes[name][0])) for name in adapted}
    for key, tensor in load_file(folder / "adapters.safetensors").items():
        name, _, kind = key.rpartition(".")
        allowed = {"lora_a": lora_a, "lora_b": lora_b}[kind]
        assert name in allowed, f"{key}: not an adapter parameter in the model"
        assert tensor.shape == allowed[name].shape, f"{key}: shape {tensor.shape}"
        allowed[name] = tensor
    return {
        name: scale * (lora_a[name] @ lora_b[name]).T if lora_b[name].any() else np.zeros(shapes[name])
        for name in adapted
    }
