"""The laws of this folder hold on every device: on the CPU in every test run, on a GPU by `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _NO_GPU])])
def device(request: pytest.FixtureRequest) -> str:
    """A kind of device."""
    return request.param
