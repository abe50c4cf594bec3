"""Numbers and words as people read them; numbers with few digits, never better than they are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from evenload.checks import unknown_ending


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


def percent_down(value: float) -> str:
    """Show a part of 1 as a percentage cut off, as `down` does."""
    return f"{down(100.0 * value, 1)}%"


def four_digits(value: float) -> str:
    """Show a number with four digits, or with all that are before the point: ``41,270``."""
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.4g}"


def counted(number: int, word: str) -> str:
    """Return a number with its word, as ``1 layer`` or ``2 layers``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def some(items: Sequence[Any], most: int = 5) -> str:
    """Return the first of many numbers or names, as ``0, 1, 2, 3, 4, ...``."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def shorten(name: str, longest: int) -> str:
    """Cut a long name in the middle, where names of one kind tend to be alike."""
    head = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:head]}…{name[head + 1 - longest :]}"


def show_bytes(count: float) -> str:
    """Show bytes with a decimal unit, e.g. ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000.0:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:,.1f} TB"


def show_seconds(seconds: float, digits: int = 3) -> str:
    """Show a duration, e.g. ``340 ms`` or ``12.3 s``."""
    if seconds == 0.0:
        return "0 s"
    for unit, length in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * length:
            return f"{seconds / length:.{digits}g} {unit}"
    return f"{seconds:.{digits}g} s" if seconds < 600.0 else f"{seconds / 60.0:,.1f} min"


def check_ending(path: str | os.PathLike[str], known: Sequence[str], rule: str) -> None:
    """Raise `ValueError` unless a file's ending is known; ``{}`` in `rule` is where it stands."""
    if ending := unknown_ending(path, known):
        which = "one of " if len(known) > 1 else ""
        raise ValueError(f"{path}: {rule.format(ending)}; use {which}{', '.join(known)}")
