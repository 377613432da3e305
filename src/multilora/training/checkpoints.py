"""Checkpoints: `checkpoints/checkpoint-N`, complete by construction; `checkpoints/.incomplete` is never resumed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's `checkpoints` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incomplete = folder / ".incomplete"

    def complete(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        numbered = [(int(m.group(1)), path) for path in self.folder.glob("*") if (m := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(numbered)]

    def last(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(reversed(self.complete()), None)

    def clean(self) -> None:
        """Remove what a killed process left."""
        shutil.rmtree(self.incomplete, ignore_errors=True)

    def keep(self, count: int) -> None:
        """Delete all but the newest `count`.

        One is moved among the incomplete ones before it is deleted, so that a kill leaves no half of a checkpoint.
        """
        for path in self.complete()[:-count]:
            self.incomplete.mkdir(exist_ok=True)
            path.rename(self.incomplete / path.name)
        self.clean()


def checkpoint_step(path: Path) -> int:
    """The step after which a checkpoint was written, from its name."""
    return int(path.name.rpartition("-")[2])
