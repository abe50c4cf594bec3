"""Numbers shown with few digits, never better than they are."""

from __future__ import annotations

import math


def down(value: float, digits: int = 5) -> str:
    """Show a value cut off after `digits` decimals, for what should be large."""
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"


def up(value: float, digits: int = 5) -> str:
    """Show a value rounded up to `digits` decimals, for what should be small.

    A millionth of the last digit is let go: it is rounding in the sum that made the value.
    """
    return f"{math.ceil(value * 10**digits - 1e-6) / 10**digits:.{digits}f}"


def percent_up(value: float, digits: int = 2) -> str:
    """Show a part of 1 as a percentage rounded up, as `up` does."""
    return f"{up(100.0 * value, digits)}%"


def percent_down(value: float, digits: int = 1) -> str:
    """Show a part of 1 as a percentage cut off, as `down` does."""
    return f"{down(100.0 * value, digits)}%"
