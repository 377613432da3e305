"""The documents say what the code does: quoted lines exist, and the README's code runs."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT

ROWS = re.findall(r"^\| .* \| `(.+)` \| `(src/.+\.py)` \|$", (ROOT / "docs/method.md").read_text(), re.MULTILINE)


def test_the_table_is_found() -> None:
    assert len(ROWS) >= 11


@pytest.mark.parametrize(("code", "file"), ROWS)
def test_quoted_line_is_in_its_file(code: str, file: str) -> None:
    assert code in (ROOT / file).read_text()
