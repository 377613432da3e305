"""MultiLoRA as a first-class method of the PEFT library. Importing this package registers it with PEFT."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from multilora.tuner import quiet as _quiet  # noqa: F401 # pyright: ignore[reportUnusedImport] - the rest imports PEFT

# isort: split
from multilora.errors import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear
from multilora.tuner.model import MultiLoraModel
from multilora.tuner.registration import register

if TYPE_CHECKING:
    from multilora.adapter.export.peft import export_lora
    from multilora.adapter.from_lora import from_lora
    from multilora.tasks.registry import register_task
    from multilora.tuner.optimizer import param_groups

__version__ = version("multilora")

register(MultiLoraConfig, MultiLoraModel)

__all__ = [
    "InputError",
    "MultiLoraConfig",
    "MultiLoraLinear",
    "MultiLoraModel",
    "__version__",
    "export_lora",
    "from_lora",
    "param_groups",
    "register_task",
]

# What the method does not need is imported when it is asked for: `import peft` waits for the above, and PEFT itself is
# still on its way then (multilora_autoload).
_LATER = {
    "export_lora": "multilora.adapter.export.peft",
    "from_lora": "multilora.adapter.from_lora",
    "param_groups": "multilora.tuner.optimizer",
    "register_task": "multilora.tasks.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
