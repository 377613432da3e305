"""Child processes for tests of kills and signals, forked from a server that has imported the libraries once."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any


def start(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Call a function of a test module in a process of its own.

    There is one server for all tests of a pytest process, so its imports are the same for all of them.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["multilora.training.run", "multilora.merging.merge", "multilora_cli.main"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process
