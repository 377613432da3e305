"""Each room of the source says what it is for and what it imports, and that is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from places import ROOT

SOURCE = ROOT / "src"
ROOMS = sorted(file.parent for file in SOURCE.rglob("__init__.py") if file.parent != SOURCE / "multilora")


def rooms_imported(folder: Path) -> set[str]:
    """The rooms of `multilora` that the modules of a folder import, wherever in a module; without its own."""
    own = folder.relative_to(SOURCE).parts[1:2]
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "multilora":
                found |= {name.name for name in node.names if (SOURCE / "multilora" / name.name).is_dir()}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("multilora."):
                found.add(str(node.module).split(".")[1])
    return found - {*own}


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_a_room_says_what_it_is_for(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {'/'.join(folder.relative_to(SOURCE).parts).removeprefix('multilora/')}: ")
    assert 10 <= len(text.splitlines()) <= 24
    for word in ("**In**", "**Out**", "**Read first**", "**Imports**", "Rules: "):
        assert word in text


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_a_room_imports_what_it_says(folder: Path) -> None:
    said = re.search(r"\*\*Imports\*\*: ([^\n]*(?:\n  [^\n]*)*)", (folder / "README.md").read_text(encoding="utf-8"))
    assert said
    assert set(re.findall(r"`(\w+)`", said[1])) == rooms_imported(folder)


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_the_files_to_read_first_are_there(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert any((place / name).is_file() for place in (folder, folder.parent)), name
