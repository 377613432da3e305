"""MultiLoRA as a first-class method of the PEFT library. Importing this package registers it with PEFT."""

from multilora.errors import InputError
from multilora_cli import __version__

__all__ = ["InputError", "__version__"]
