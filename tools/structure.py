"""The structure of the source in numbers: rooms, arrows, floors, cycles, lines. `python tools/structure.py [SRC]`.

A room is a folder or a loose module directly in `multilora`, or the console script. An arrow A → B: some module of A
imports one of B. A floor stands above all that it imports; the longest import chain has one room on each floor.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

PACKAGES = ("multilora", "multilora_cli")


def room_of(module: str) -> str:
    """The room that a module stands in."""
    package, *inside = module.split(".")
    return package if package == "multilora_cli" or not inside else inside[0]


def longest_chain(arrows: dict[str, set[str]]) -> list[str]:
    """A longest way from room to room along the arrows; of a graph without cycles."""
    chains: dict[str, list[str]] = {}
    for room in TopologicalSorter(arrows).static_order():
        below = max((chains[other] for other in arrows.get(room, ())), key=len, default=[])
        chains[room] = [room, *below]
    return max(chains.values(), key=len)


def main(source: Path) -> None:
    """Print the numbers of a source tree."""
    sys.path.insert(0, str(source))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    rooms = {room_of(module) for module in graph.modules} - {"multilora"}
    arrows: dict[str, set[str]] = {room: set() for room in rooms}
    between = 0
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            start, end = room_of(module), room_of(imported)
            between += start != end
            if start != end and "multilora" not in (start, end):
                arrows[start].add(end)
    files = sorted(source.rglob("*.py"))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    print(f"rooms {len(rooms)}; arrows between rooms {sum(map(len, arrows.values()))}; imports between rooms {between}")
    try:
        chain = longest_chain(arrows)
        print(f"longest import chain {len(chain)}: {' → '.join(chain)}")
    except CycleError as error:
        print(f"cycle: {' → '.join(error.args[1])}")
    loose = sorted(file.name for file in (source / "multilora").glob("*.py"))
    print(f"loose modules in the package's root {len(loose)}: {', '.join(loose)}")
    print(f"source files {len(files)}, lines {sum(lines.values())}")
    print(f"files of more than 300 lines {[file.name for file in files if lines[file] > 300]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "src").resolve())
