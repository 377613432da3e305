"""What the inputs of a merge say of each other: which base model they mean, and whether it is the one that is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import AdapterFile
from multilora.base.weights import ModelWeights
from multilora.errors import InputError
from multilora.merging.changes import Changes
from multilora.merging.folder import REPORT_FILE
from multilora.runs.find import Adapter


def _base_name(adapter: AdapterFile) -> str | None:
    """The last part of the base model's name that the adapter gives: it may lie elsewhere on every machine."""
    named = _base_model_of(adapter)
    return str(named).rstrip("/").rpartition("/")[2] or None if named else None


def check_base_names(adapters: Sequence[AdapterFile], ignore: bool) -> None:
    """The adapters name one base model.

    Raises:
        InputError: they name several, and that is not ignored.
    """
    names = {name.lower(): name for adapter in adapters if (name := _base_name(adapter))}
    if len(names) > 1 and not ignore:
        raise InputError(
            f"the adapters were trained from different base models ({', '.join(sorted(names.values()))}, as their "
            f"{CONFIG_FILE} says), and mean nothing on each other's. If these are one model under different names, "
            "say so: --ignore-base-names (ignore_base_names=True)"
        )


def notes_of(base: ModelWeights, adapters: Sequence[tuple[AdapterFile, float]], changes: Changes) -> tuple[str, ...]:
    """What a user should know of the inputs before trusting the result; nothing here stops a merge."""
    notes: list[str] = []
    names = {name for adapter, _ in adapters if (name := _base_name(adapter))}
    own = {base.folder.name, base.folder.resolve().name, str(base.config.get("_name_or_path", "")).rpartition("/")[2]}
    hub = next((part for part in base.folder.resolve().parts if part.startswith("models--")), "")
    own.add(hub.rpartition("--")[2])
    if names and not {name.lower() for name in names} & {name.lower() for name in own}:
        notes.append(
            f"the adapter was trained from {', '.join(map(repr, sorted(names)))}, and is merged into "
            f"{base.folder.name!r}; they should be the same model"
        )
    as_named = {str(named) for adapter, _ in adapters if (named := _base_model_of(adapter))}
    if len(as_named) > 1 and len({name.lower() for name in names}) == 1:
        notes.append(
            f"the adapters name their base model differently ({', '.join(sorted(as_named))}); only the last part of "
            "the name was compared"
        )
    if (base.folder / REPORT_FILE).is_file():
        notes.append(
            f"{base.folder.name!r} is a merged model itself (it has a {REPORT_FILE}): what was merged before stays in "
            "it, and the same adapter would count twice"
        )
    for adapter, _ in adapters:
        if bits := Adapter(adapter.folder).trained_bits():
            notes.append(
                f"{adapter.folder.name!r} was trained on its base model in {bits} bits, and the unquantised one gives "
                "other logits: compare them before serving (docs/quantization.md)"
            )
    if changes.untied:
        notes.append("the embeddings and the output layer differ now: both are written, tie_word_embeddings is false")
    return tuple(notes)


def _base_model_of(adapter: AdapterFile) -> Any:
    return adapter.adapter_config.raw.get("base_model_name_or_path")
