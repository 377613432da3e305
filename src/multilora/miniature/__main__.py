"""`python -m multilora.miniature FOLDER` writes the base model and the tasks there, for `recipes/miniature.yaml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from multilora.miniature.folder import write_miniature

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks (default 0)")
    arguments = parser.parse_args()
    write_miniature(arguments.folder, arguments.seed)
