"""Installed is enough: PEFT knows MultiLoRA without `import multilora`, in third-party commands too.

PyTorch calls `install` at the end of `import torch` (entry point group `torch.backends`). It only puts a finder in
front of Python's: once PEFT has registered its own methods, at the end of `import peft.tuners`, the finder imports
`multilora`, and takes itself away. A process that never imports PEFT never imports `multilora`.

A module of its own, and not part of the package: `import multilora` registers the method at once and lets an error
through, which PyTorch's call must not do. `MULTILORA_AUTOLOAD=0` switches all of it off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# Not `peft`: where PEFT is imported first, it is PEFT that imports torch, and its own import has been seen to by then.
WATCHED = "peft.tuners"


def install() -> None:
    """Have PEFT know MultiLoRA once it is imported. Imports nothing and raises nothing; may be called again."""
    if os.environ.get("MULTILORA_AUTOLOAD", "1") == "0" or any(isinstance(each, AfterPeft) for each in sys.meta_path):
        return
    if WATCHED in sys.modules:  # torch was imported again
        _register()
    else:
        sys.meta_path.insert(0, AfterPeft())


class AfterPeft(Loader):
    """Finds and loads `peft.tuners` as Python would without it, and then registers MultiLoRA."""

    _loader: Loader

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)
            return spec
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module looks as if nobody had stood between: for reloading, for readers of its source and resources.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except BaseException:
            sys.meta_path.insert(0, self)  # PEFT's error is PEFT's; its next import is watched again
            raise
        _register()


def _register() -> None:
    if "multilora" in sys.modules:  # an explicit import is on its way, and registers
        return
    try:
        import multilora  # noqa: F401 # pyright: ignore[reportUnusedImport] - registers
    except Exception as error:  # whatever it is, it is no reason for PEFT not to be imported
        import warnings

        warnings.warn(
            f"multilora is installed and could not register its method with PEFT ({type(error).__name__}: {error}). "
            "`import multilora` shows where; MULTILORA_AUTOLOAD=0 switches this off",
            stacklevel=2,
        )
