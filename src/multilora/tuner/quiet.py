"""Importing is silent: bitsandbytes, which PEFT imports where it is installed, says that a kernel is missing.

It is the kernel for the weights that it sorts, which nothing here uses (`multilora.tuner.bnb.prepare`).
"""

from __future__ import annotations

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
