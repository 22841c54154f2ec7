"""Formats values for the cells of tables."""

import math
from typing import Any


def format_number(value: float | None) -> str:
    """Formats a number with three digits; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def format_value(value: Any) -> str:
    """Formats the value of a hyper-parameter; decays keep the digits of their distance from 1."""
    if not isinstance(value, float):
        return str(value)
    if 0.9 < value < 1:
        return f"{value:.{1 - math.floor(math.log10(1 - value))}f}".rstrip("0")
    return f"{value:.3g}"
