"""The miniature as a folder that a recipe reads: `FOLDER/model`, `FOLDER/tasks` and `FOLDER/text.jsonl`."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from multilora.miniature.tasks import write_tasks
from multilora.miniature.text import held_out
from multilora.storage.folders import write_text, written_aside

TEXTS = 400  # of general text


def write_miniature(folder: Path, seed: int = 0) -> None:
    """Write what `recipes/miniature.yaml` reads: the package's base model, the tasks of a seed, and some general text.

    Args:
        folder: its `model`, `tasks` and `text.jsonl` are replaced.
        seed: of the tasks. The recipe's figures are those of seed 0.
    """
    with as_file(files("multilora") / "assets" / "miniature") as assets, written_aside(folder / "model") as model:
        shutil.copytree(assets, model, dirs_exist_ok=True)
    with written_aside(folder / "tasks") as tasks:
        write_tasks(tasks, seed)
    lines = (json.dumps({"text": text}) + "\n" for text in held_out(TEXTS))
    write_text(folder / "text.jsonl", "".join(lines))
