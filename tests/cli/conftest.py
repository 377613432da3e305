from __future__ import annotations

import pytest

from console import Run, multilora


@pytest.fixture
def run() -> Run:
    """The console script in this process: exit code, stdout, stderr."""
    return multilora
