"""The number that an answer ends in."""

from __future__ import annotations

import re

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


def final_number(text: str) -> str | None:
    """The number that a generated answer ends in: the one after the first `####`, else the last one in the text.

    Commas are taken out, and so are a decimal point and trailing zeros. None if the text has no number.
    """
    marked = re.search(rf"####[^\d\n-]*({NUMBER})", text)
    numbers = [marked.group(1)] if marked else re.findall(NUMBER, text)
    return plain_number(numbers[-1]) if numbers else None


def plain_number(number: str) -> str:
    """The number without commas, trailing zeros of the fraction, and a final decimal point."""
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
