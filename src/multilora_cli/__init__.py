"""The console script's package: parsing and printing only. Light, because importing `multilora` imports PEFT."""

__version__ = "0.1.0"
