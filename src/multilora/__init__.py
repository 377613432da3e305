"""MultiLoRA as a first-class method of the PEFT library. Importing this package registers it with PEFT."""

from importlib.metadata import version

from multilora.errors import InputError

__version__ = version("multilora")

__all__ = ["InputError", "__version__"]
