"""Started by torchrun: trains several recipes one after the other, so that the libraries are imported once.

Its argument is a JSON file with a list of jobs: `recipe` (a path), `set` (overrides), `name`, `resume`, `copy_of` (a
finished run: first put a copy of it into the output folder) with `undo_to` (as if it had been killed after that step's
checkpoint). What a process raised is written to `NAME.RANK.txt` beside the file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from miniature import undo
from multilora.errors import InputError
from multilora.recipe.file import load_recipe
from multilora.training.processes import Processes
from multilora.training.run import train


def main(jobs_file: Path) -> None:
    jobs: list[dict[str, Any]] = json.loads(jobs_file.read_text())
    processes = Processes.current()
    for job in jobs:
        recipe = load_recipe(Path(job["recipe"]), job["set"])
        if "copy_of" in job and processes.main:
            shutil.copytree(job["copy_of"], recipe.training.output)
            undo(recipe.training.output, job["undo_to"])
        try:
            train(recipe, resume=job.get("resume", False))
        except InputError as error:
            (jobs_file.parent / f"{job['name']}.{os.environ['RANK']}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
