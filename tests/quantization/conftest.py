from __future__ import annotations

from pathlib import Path

import pytest

from tiny_run import make_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder. 172 is no multiple of 32 and of 64: sorted for evaluation such weights would fail."""
    shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2}
    return make_model(tmp_path_factory.mktemp("model") / "base", **shape)
