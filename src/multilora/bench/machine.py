"""Context for judging measurements: the machine, and its load from other processes."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Hardware and library versions for judging the measurements. Contains no host name and no path."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    features = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_features": [name for name in features if name in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "multilora")},
    }


class Load:
    """Records the load from other processes during a `with` block into `facts`.

    `others_cpu`: share of all cores' time that other processes (or the host) took; None where /proc/stat is missing.
    What this process starts is no other, once it has ended and was waited for.
    """

    facts: dict[str, Any]

    def __enter__(self) -> Load:
        self.facts = {"load_average_before": load_average()}
        self._wall, self._own, self._busy = time.perf_counter(), _own_seconds(), _busy_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        wall, own = time.perf_counter() - self._wall, _own_seconds() - self._own
        busy = _busy_seconds()
        others = None
        if busy is not None and self._busy is not None:
            others = round(max(0.0, busy - self._busy - own) / (wall * (os.cpu_count() or 1)), 4)
        self.facts |= {"load_average_after": load_average(), "others_cpu": others}


def _own_seconds() -> float:
    of_children = os.times()
    return time.process_time() + of_children.children_user + of_children.children_system


def _busy_seconds() -> float | None:
    """Seconds that all cores together were not idle since the system started, time stolen by the host included."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, stat.read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def load_average() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
