"""MultiLoRA as a first-class method of the PEFT library. Importing this package registers it with PEFT."""

from importlib.metadata import version

from multilora.tuner import quiet as _quiet  # noqa: F401 # pyright: ignore[reportUnusedImport] - the rest imports PEFT

# isort: split
from multilora.adapter.export.peft import export_lora
from multilora.adapter.from_lora import from_lora
from multilora.errors import InputError
from multilora.tasks.registry import register_task
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear
from multilora.tuner.model import MultiLoraModel
from multilora.tuner.registration import register

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
    "register_task",
]
