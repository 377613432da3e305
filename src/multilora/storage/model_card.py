"""Model cards (README.md): written into folders that have none, and renewed as long as nobody has changed them.

What is ours in a card stands between two comments, the first of which has a digest of it. Text whose digest is another
one was changed by somebody, and is theirs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from multilora.storage.folders import replaced_name, write_text

CARD_FILE = "README.md"

_END = "<!-- multilora: end -->"
_OURS = re.compile(r"<!-- multilora: renewed until somebody changes it; ([0-9a-f]{16}) -->\n(.*?)" + _END, re.DOTALL)
# The titles and sentences of cards that trainers generate.
_OF_TRAINERS = (
    "It has been trained using [TRL](https://github.com/huggingface/trl)",
    "This model card has been generated automatically according to the information the Trainer had access to",
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FOR_BASE = "base_model:"


@dataclass(frozen=True)
class Card:
    """What we have to say of a folder.

    Attributes:
        title: the heading.
        text: what stands below it.
        metadata: entries of the front matter, as `huggingface_hub.ModelCardData` names them; empty ones are left out.
        sections: further headings, with their text.
    """

    title: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sections: Sequence[tuple[str, str]] = ()

    def with_(self, metadata: Mapping[str, Any], *sections: tuple[str, str]) -> Card:
        """The card with more entries, and with more sections at its end."""
        return replace(self, metadata={**self.metadata, **metadata}, sections=(*self.sections, *sections))

    def body(self) -> str:
        """The card without front matter, between its two comments."""
        parts = [f"# {self.title}\n\n{self.text.strip()}"]
        parts += [f"## {heading}\n\n{text.strip()}" for heading, text in self.sections]
        text = "\n\n".join(parts) + "\n"
        return f"<!-- multilora: renewed until somebody changes it; {_digest(text)} -->\n{text}{_END}"


def hub_id(name: object) -> str | None:
    """The name, if it can be one of the Hub; None for a folder's."""
    named = name if isinstance(name, str) and _HUB_ID.fullmatch(name) else None
    return None if named is None or Path(named).exists() else named


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def is_ours(file: Path) -> bool:
    """The card has our part, as we wrote it; without a file, no."""
    found = _OURS.search(_text(file))
    return found is not None and _digest(found[2]) == found[1]


def own_card(folder: Path) -> tuple[str, ...]:
    """The name of the folder's card if it is ours, and may be replaced with the folder."""
    place = folder.resolve()
    if not place.exists():
        place = replaced_name(place)  # where a kill may have left it; `new_folder` brings it back
    return (CARD_FILE,) if is_ours(place / CARD_FILE) else ()


def write_card(folder: Path, card: Card) -> bool:
    """Write the card into a folder, or renew it. Somebody's card stays as it is, byte by byte.

    A form that nobody filled in (PEFT's) is replaced. A card that a trainer generated keeps its text, and ours follows.

    Args:
        folder: with the adapter or the model.
        card: what it should say.

    Returns:
        Whether it was written.
    """
    from huggingface_hub import ModelCard, ModelCardData

    file = folder / CARD_FILE
    text = _text(file)
    present: dict[str, Any] = {}
    body = f"{card.body()}\n"
    if text:
        try:
            old = ModelCard(text, ignore_metadata_errors=True)
        except (ValueError, yaml.YAMLError):
            return False
        present = old.data.to_dict()
        if is_ours(file):
            body = _OURS.sub(lambda _: card.body(), old.text.lstrip("\n"))
        elif _OURS.search(text):
            return False
        elif any(words in text for words in _OF_TRAINERS):
            body = f"{old.text.strip()}\n\n{card.body()}\n"
        elif _is_empty_form(old.text, ModelCard.from_template(ModelCardData()).text):
            body += _versions(old.text)
        else:
            return False
    content = ModelCardData(**_merged(present, card.metadata)).to_yaml(line_break="\n")
    new = f"---\n{content}\n---\n\n{body.rstrip()}\n"  # PEFT's saving takes the last line's end away
    if new != text:
        write_text(file, new)
    return True


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")  # other encodings are somebody's, and are left
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(text: str) -> list[str]:
    """Without blank lines, and without what PEFT adds: its version, at each saving."""
    return [
        line.rstrip()
        for line in text.splitlines()
        if line.strip() and not line.startswith(("### Framework versions", "- PEFT "))
    ]


def _is_empty_form(text: str, template: str) -> bool:
    return _lines(text) == _lines(template)


def _versions(text: str) -> str:
    """PEFT's line of its version, where it looks for it at the next saving."""
    versions = [line for line in text.splitlines() if line.startswith("- PEFT ")]
    return "\n### Framework versions\n\n" + "\n".join(versions) + "\n" if versions else ""


def _merged(present: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Front matter: ours wins, entries of others stay, tags are added up. No folder of this machine is named."""
    merged = {**present, **{key: value for key, value in ours.items() if value}}
    base = ours.get("base_model") or hub_id(present.get("base_model"))
    merged.pop("base_model", None)
    tags = {*(present.get("tags") or ()), *(ours.get("tags") or ())}
    tags = {tag for tag in tags if not tag.startswith(_FOR_BASE) or hub_id(tag.rpartition(":")[2])}
    return {**({"base_model": base} if base else {}), **merged, "tags": sorted(tags)}
