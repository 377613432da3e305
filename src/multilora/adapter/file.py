"""Adapter folders of MultiLoRA and of plain PEFT LoRA, read layer by layer and checked: the one place that knows them.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Everything but the numbers themselves is checked
from the file's header when the folder is opened; numbers are read when asked for, one layer's at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multilora.adapter.config import CONFIG_FILE, AdapterConfig, read_adapter_config
from multilora.errors import InputError, nearest
from multilora.storage.safetensors import DTYPE_CODES, all_finite, natural_order
from multilora.tuner.factors import Factors
from multilora.tuner.keys import current_key

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_PICKLE_FILE = "adapter_model.bin"
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}
# The tensors of one layer: the endings of their keys, by method.
_LORA_KINDS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
_MULTILORA_KINDS = {
    "lora_A": "multilora_A.weight",
    "lora_B": "multilora_B.weight",
    "scaling": "multilora_scaling.weight",
}
_EXPLAINED = {
    "lora_embedding_A": "adapts an embedding, not a linear layer",
    "lora_embedding_B": "adapts an embedding, not a linear layer",
    "lora_magnitude_vector": "belongs to DoRA",
    "lora_E": "belongs to AdaLoRA",
}


@dataclass(frozen=True)
class AdapterLayer:
    """What the header says about the adapter of one linear layer.

    Attributes:
        name: the layer's name in the base model.
        r: rank of one module.
        num_loras: number n of modules; 1 for a plain LoRA.
        d_in, d_out: the layer's features.
        alpha_over_r: the constant: `lora_alpha / r`, or `lora_alpha / sqrt(r)` of an rsLoRA.
        dtype: of lora_A and lora_B as stored (of two, the one both promote to).
    """

    name: str
    r: int
    num_loras: int
    d_in: int
    d_out: int
    alpha_over_r: float
    dtype: torch.dtype

    @property
    def total_rank(self) -> int:
        """n·r, the rank of the one pair."""
        return self.num_loras * self.r


class AdapterFile:
    """An adapter folder, opened and checked; made by `open_adapter`.

    Attributes:
        folder: where it is.
        file: the weights file in it.
        adapter_config: what `adapter_config.json` says.
        layers: name to facts of every adapted layer, blocks in numerical order.
        other_tensors: names of tensors that are no LoRA pair: of modules_to_save, bias or trainable_token_indices.
    """

    def __init__(self, folder: Path, adapter_config: AdapterConfig) -> None:
        self.folder = folder
        self.adapter_config = adapter_config
        self.file = folder / WEIGHTS_FILE
        header = _open_weights(self.file)
        keys, self.other_tensors = _sort_keys(self.file, header.keys(), adapter_config)
        self._keys = {name: keys[name] for name in sorted(keys, key=natural_order)}
        self.layers = self._check_layers(header)

    def factors(self, layer: str) -> Factors:
        """The adapter of one layer, in the dtypes of the file.

        Raises:
            InputError: no such layer, or a tensor that is not finite.
        """
        if layer not in self.layers:
            raise InputError(f"{self.folder}: the adapter has no layer {layer!r}{nearest(layer, self.layers)}")
        tensors: dict[str, Tensor] = {}
        opened = _open_weights(self.file)  # anew: a file that stays open stays mapped, all that was ever read of it
        for kind, key in self._keys[layer].items():
            tensors[kind] = opened.get_tensor(key)
            if not all_finite(tensors[kind]):
                named = key.removesuffix(".weight").rpartition(".")[2]
                raise InputError(
                    f"{self.file}: {named} of layer {layer!r} has numbers that are not finite (NaN or infinity): "
                    "training went wrong before it was saved. Use an earlier checkpoint"
                )
        return Factors(
            alpha_over_r=self.layers[layer].alpha_over_r,
            scaling_function=self.adapter_config.config.scaling_function or "linear",
            scaling_constant=self.adapter_config.config.scaling_constant or 1.0,
            **tensors,
        )

    def folded(self, layer: str) -> Factors:
        """The one pair (A, B') of one layer, as `Factors.folded`: in fp32 (fp64 for fp64 files).

        Raises:
            InputError: as `factors`; also where folding overflows.
        """
        folded = self.factors(layer).folded()
        if not all_finite(folded.lora_B):
            raise InputError(f"{self.folder}: the scale of layer {layer!r} is so large that B times it overflows")
        return folded

    def _check_layers(self, header: Any) -> dict[str, AdapterLayer]:
        faults: list[str] = []
        layers: dict[str, AdapterLayer] = {}
        for name, keys in self._keys.items():
            fault = self._missing(keys) or self._layer(name, keys, header)
            if isinstance(fault, AdapterLayer):
                layers[name] = fault
            else:
                faults.append(f"  {name}: {fault}")
        if faults:
            more = [f"  … and {len(faults) - 5} more layers"] if len(faults) > 5 else []
            raise InputError(
                "\n".join([f"{self.folder}: tensors do not fit {CONFIG_FILE} or each other:", *faults[:5], *more])
            )
        return layers

    def _missing(self, keys: Mapping[str, str]) -> str:
        missing = [ending for kind, ending in _kinds(self.adapter_config).items() if kind not in keys]
        return f"{', '.join(missing)} missing" if missing else ""

    def _layer(self, name: str, keys: Mapping[str, str], header: Any) -> AdapterLayer | str:
        """The layer's facts, or what is wrong with it."""
        config = self.adapter_config.config
        slices = {kind: header.get_slice(key) for kind, key in keys.items()}
        shapes = {kind: tuple(part.get_shape()) for kind, part in slices.items()}
        codes = {kind: part.get_dtype() for kind, part in slices.items()}
        if strange := [f"{kind} {code}" for kind, code in codes.items() if code not in _DTYPES]:
            return f"dtype {', '.join(strange)}; adapters are stored in {', '.join(_DTYPES)}"
        r, n = self.adapter_config.rank_of(name), config.num_loras
        by_config = (
            f"r={r}" if self.adapter_config.method == "lora" else f"num_loras={n}, r={r}, scaling={config.scaling!r}"
        )
        A, B = shapes["lora_A"], shapes["lora_B"]
        wanted = {"vector": (n, *B[:1]), "scalar": (n,), "none": None}[config.scaling]
        if (
            not (len(A) == len(B) == 2 and A[0] == B[1] == n * r and A[1] > 0 and B[0] > 0)
            or shapes.get("scaling") != wanted
        ):
            rows = f"{n * r}" if self.adapter_config.method == "lora" else f"{n}·{r} = {n * r}"
            return (
                f"{', '.join(f'{kind} {shape}' for kind, shape in shapes.items())}; with {by_config} lora_A must be "
                f"({rows}, d_in), lora_B (d_out, {n * r})"
                + {"vector": f", scaling ({n}, d_out)", "scalar": f", scaling ({n},)", "none": ""}[config.scaling]
            )
        dtype = torch.promote_types(_DTYPES[codes["lora_A"]], _DTYPES[codes["lora_B"]])
        return AdapterLayer(name, r, n, A[1], B[0], self.adapter_config.alpha_over_r_of(name), dtype)


def open_adapter(folder: str | Path) -> AdapterFile:
    """Open an adapter folder and check all of it but the numbers themselves.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors` of MultiLoRA or of plain PEFT LoRA.

    Raises:
        InputError: a file is missing, broken, of another method, or its parts do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        near = nearest(folder.name, (entry.name for entry in folder.parent.iterdir())) if folder.parent.is_dir() else ""
        raise InputError(f"no adapter folder {str(folder)!r}{near}. An adapter is a folder with {CONFIG_FILE} in it")
    if not (folder / CONFIG_FILE).is_file():
        inside = sorted(entry.parent.name for entry in folder.glob(f"*/{CONFIG_FILE}"))
        hint = f"; did you mean {str(folder / inside[-1])!r}?" if inside else ""
        raise InputError(f"{str(folder)!r} is not an adapter: it has no {CONFIG_FILE}{hint}")
    if not (folder / WEIGHTS_FILE).is_file():
        if (folder / _PICKLE_FILE).is_file():
            raise InputError(
                f"{folder / _PICKLE_FILE} is a pickle, which can run code when it is read, so it is not. If you trust "
                "it, load the adapter with PEFT and save it again: save_pretrained writes safetensors"
            )
        raise InputError(f"{str(folder)!r} has no {WEIGHTS_FILE}; the adapter was not saved completely")
    return AdapterFile(folder, read_adapter_config(folder / CONFIG_FILE))


def _open_weights(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a complete safetensors file ({error}); copy or save it again") from error


def _kinds(adapter_config: AdapterConfig) -> dict[str, str]:
    if adapter_config.method == "lora":
        return _LORA_KINDS
    drop = {"scaling"} if adapter_config.config.scaling == "none" else set[str]()
    return {kind: ending for kind, ending in _MULTILORA_KINDS.items() if kind not in drop}


def _sort_keys(
    file: Path, keys: Iterable[str], adapter_config: AdapterConfig
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Layer to kind to key, and the keys of everything else that the configuration declares."""
    config = adapter_config.config
    declares_more = bool(config.modules_to_save or config.bias != "none" or config.trainable_token_indices)
    layers: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in keys:
        name = current_key(key)  # files from before there were leaves are read, too
        kind = next((k for k, ending in _kinds(adapter_config).items() if name.endswith(f".{ending}")), None)
        if kind is not None and name.startswith(PREFIX):
            layer = name.removeprefix(PREFIX).removesuffix(f".{_kinds(adapter_config)[kind]}")
            if kind in layers.setdefault(layer, {}):
                raise InputError(f"{file}: {key!r} and {layers[layer][kind]!r} are the same tensor under two names")
            layers[layer][kind] = key
            continue
        parts = key.split(".")
        of_method = any(part.startswith(("lora_", "multilora_")) for part in parts)
        if declares_more and not of_method and key.startswith(PREFIX):
            others.append(key)
            continue
        if key.endswith(("base_layer.weight", "lm_head.weight", "embed_tokens.weight")):
            raise InputError(
                f"{file}: {key!r} is a weight of the base model, which PEFT copied into the adapter (embeddings or "
                "output layer among target_modules, or resized). LoRA pairs cannot say whether it is unchanged. If it "
                "is, load the adapter with PEFT and save it with save_pretrained(…, save_embedding_layers=False)"
            )
        reason = next((text for part in parts if (text := _EXPLAINED.get(part))), "has no place in it")
        raise InputError(
            f"{file}: unexpected tensor {key!r}: it {reason}. An adapter with this {CONFIG_FILE} has "
            f"{PREFIX}<layer>.{{{', '.join(_kinds(adapter_config).values())}}} and nothing else"
        )
    if not layers:
        raise InputError(f"{file}: no tensor of an adapted layer in it; nothing was saved")
    return layers, tuple(sorted(others))
