"""The weight matrices of a model folder, read one at a time from its safetensors shards and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multilora.base.structure import model_folder
from multilora.errors import InputError, nearest
from multilora.storage.safetensors import DTYPE_CODES, all_finite, natural_order

_SINGLE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
WEIGHTS_AND_JSON = ("*.safetensors", "*.json")
_LARGEST_JSON = 1 << 26  # bytes; the index of the largest models has a few million
# Models whose linear layers in the blocks are transformers' Conv1D, which stores its weight as (d_in, d_out).
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt")


class ModelWeights:
    """Weights of a model folder by name, from their files' headers; numbers are read when asked for.

    Args:
        folder: holds `config.json` and `model.safetensors`, or shards with their index.

    Attributes:
        folder: where it is.
        config: what `config.json` says.
        places: the file of every tensor by name.
        files: the safetensors files, sorted.
        shapes: (d_out, d_in) of every matrix, by the name of its layer (without `.weight`).

    Raises:
        InputError: a file is missing, broken or not safetensors, or says something else than the index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self._conv1d = self.config.get("model_type") in _CONV1D_MODELS
        self.places = _files_of(folder)
        self.files = sorted(set(self.places.values()))
        self.shapes: dict[str, tuple[int, int]] = {}
        for file in self.files:
            with _opened(file) as tensors:
                names = set(tensors.keys())
                if lacking := sorted(n for n, place in self.places.items() if place == file and n not in names):
                    raise InputError(
                        f"{file}: lacks {lacking[0]!r}, which {INDEX_FILE} says is in it; fetch the model's files again"
                    )
                for name in sorted(names & {n for n, place in self.places.items() if place == file}):
                    self._add(name, tensors.get_slice(name))

    def _add(self, name: str, part: Any) -> None:
        shape = part.get_shape()
        if len(shape) == 2 and name.endswith(".weight") and part.get_dtype() in DTYPE_CODES.values() and min(shape) > 0:
            turned = self.is_transposed(name)
            self.shapes[name.removesuffix(".weight")] = (shape[1], shape[0]) if turned else (shape[0], shape[1])

    def is_transposed(self, name: str) -> bool:
        """Whether the weight of a layer is stored as (d_in, d_out)."""
        return self._conv1d and is_in_block(name)

    def block_matrices(self) -> list[str]:
        """Names of the layers inside of blocks, in order; not the embeddings and not the output layer."""
        return sorted(filter(is_in_block, self.shapes), key=natural_order)

    def find(self, layer: str) -> str | None:
        """The name of a layer in these files, as `find_name` finds it."""
        return find_name(layer, self.shapes)

    def matrix(self, name: str) -> Tensor:
        """The weight of a layer, (d_out, d_in), as stored.

        Raises:
            InputError: it is not finite.
        """
        key = f"{name}.weight"
        with _opened(self.places[key]) as tensors:  # opened anew: a file that stays open stays mapped, all of it
            weight: Tensor = tensors.get_tensor(key)
        if not all_finite(weight):
            raise InputError(
                f"{self.places[key]}: the weight of layer {name!r} has numbers that are not finite (NaN or infinity)"
            )
        return weight.t() if self.is_transposed(name) else weight


def find_name(name: str, names: Collection[str]) -> str | None:
    """The name that a layer or a tensor has among `names`. It may differ by a prefix (`transformer.`), if that leaves
    one."""
    if name in names:
        return name
    alike = [known for known in names if known.endswith(f".{name}") or name.endswith(f".{known}")]
    return alike[0] if len(alike) == 1 else None


def is_in_block(name: str) -> bool:
    """A number stands in the name: `model.layers.3.mlp.up_proj`."""
    return block_of(name) is not None


def block_of(name: str) -> int | None:
    """The block's number, the first in the name."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def local_model(
    model: str, *, revision: str | None = None, download: bool = False, patterns: Sequence[str] = WEIGHTS_AND_JSON
) -> Path | None:
    """The folder of a model: named as such, or of a hub id.

    Args:
        model: a folder, or an id on the Hugging Face hub.
        revision: of a hub id.
        download: fetch a hub id; otherwise only what was fetched before is looked for.
        patterns: of the files to fetch.

    Returns:
        None: the hub id was not fetched before, and `download` is off.

    Raises:
        InputError: no such folder or id.
    """
    if (folder := model_folder(model)) is not None:
        return folder
    try:
        wanted = list(patterns)
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted, local_files_only=not download))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if not download:
            return None
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"there is no model folder {model!r}, and it cannot be fetched from the hub: {reason}"
        ) from error


def check_same_matrices(what: str, shapes: Mapping[str, tuple[int, int]], base: ModelWeights) -> dict[str, str]:
    """Every layer is in the base model with its shape.

    Args:
        what: the adapter or model that has these layers, for the message.
        shapes: (d_out, d_in) by the layer's name.
        base: the base model.

    Returns:
        The name that each layer has in the base model.

    Raises:
        InputError: they do not belong together.
    """
    faults: list[str] = []
    found: dict[str, str] = {}
    for layer, shape in shapes.items():
        name = base.find(layer)
        if name is None:
            faults.append(f"  {layer}: not in the base model{nearest(layer, base.shapes)}")
        elif base.shapes[name] != shape:
            faults.append(
                f"  {layer}: {shape[0]} x {shape[1]}; in the base model {' x '.join(map(str, base.shapes[name]))}"
            )
        else:
            found[layer] = name
    if faults:
        more = [f"  … and {len(faults) - 5} more layers"] if len(faults) > 5 else []
        head = f"{what} and the base model {str(base.folder)!r} do not belong together (d_out x d_in):"
        remedy = "Name the base model that it was trained from, whose weights are not quantised"
        raise InputError("\n".join([head, *faults[:5], *more, remedy]))
    return found


def _files_of(folder: Path) -> dict[str, Path]:
    """Tensor name to file."""
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(v, str) for v in cast(dict[str, Any], index).values()):
            raise InputError(f"{folder / INDEX_FILE}: has no weight_map, name to file; fetch the model's files again")
        places = cast(dict[str, str], index)
        if strange := sorted({place for place in places.values() if not re.fullmatch(r"[\w.-]+\.safetensors", place)}):
            raise InputError(f"{folder / INDEX_FILE}: {strange[0]!r} is not the name of a safetensors file beside it")
        if missing := sorted({place for place in places.values() if not (folder / place).is_file()}):
            raise InputError(
                f"{str(folder)!r} lacks {len(missing)} of its {len(set(places.values()))} shards: "
                f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; fetch the model's files again"
            )
        return {name: folder / place for name, place in places.items()}
    file = folder / _SINGLE
    if not file.is_file():
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise InputError(
                f"{folder / pickles[0]} is a pickle, which can run code when it is read, so it is not. If you trust "
                "it, load the model with transformers and save it again: save_pretrained writes safetensors"
            )
        raise InputError(f"{str(folder)!r} has neither {_SINGLE} nor {INDEX_FILE}; the model was not saved completely")
    with _opened(file) as tensors:
        return dict.fromkeys(cast(Iterable[str], tensors.keys()), file)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a complete safetensors file ({error}); copy or save it again") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a model's folder.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{file}: {file.stat().st_size} bytes are too many for a JSON file of a model")
        raw: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: must be a JSON object; got {type(raw).__name__}")
    return cast(dict[str, Any], raw)
