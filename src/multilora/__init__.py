"""MultiLoRA as a first-class method of the PEFT library. Importing this package registers it with PEFT."""

from importlib.metadata import version

from multilora import _quiet  # noqa: F401 # pyright: ignore[reportUnusedImport] - first: the rest imports PEFT
from multilora.config import MultiLoraConfig
from multilora.convert import export_lora, from_lora
from multilora.errors import InputError
from multilora.registration import register
from multilora.tuner import MultiLoraModel

__version__ = version("multilora")

register(MultiLoraConfig, MultiLoraModel)

__all__ = ["InputError", "MultiLoraConfig", "MultiLoraModel", "__version__", "export_lora", "from_lora"]
