"""Checks that several nouns share; each raises a `ValueError` with the nearest legal value."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Any

LARGEST = 2**63 - 1  # what an int64 holds
LARGEST_BOOST = 1e9  # far beyond any use, and no float type overflows


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not an integer; use an integer of at least {least}")
    if number < least:
        raise ValueError(f"{name}={number} is less than {least}; use {least} or more")
    if number > LARGEST:
        raise ValueError(f"{name}={number} is more than an int64 holds; use {LARGEST} or less")
    return number


def positive_int(name: str, value: Any) -> int:
    """Return `value` as an int of at least 1.

    Parameters
    ----------
    name : str
        Argument's name, for the message.
    value : int-like
        Anything with ``__index__``; bool is refused.

    Raises
    ------
    ValueError
        If the value is no integer, is less than 1, or more than an int64 holds.
    """
    return _integer(name, value, 1)


def multiple(name: str, value: int, of_name: str, of: int) -> None:
    """Raise `ValueError` unless `value` is a multiple of `of`, naming the multiples around it."""
    if value % of:
        below, above = value // of * of, (value // of + 1) * of
        use = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"{name}={value} is not a multiple of {of_name}={of}; use {use}")


def divisor(name: str, value: int, of_name: str, of: int) -> None:
    """Raise `ValueError` unless `value` divides `of`, naming the divisors around it."""
    if of % value:
        below = next(d for d in range(min(value, of), 0, -1) if of % d == 0)
        above = next((d for d in range(value, of + 1) if of % d == 0), None)
        use = f"{below} or {above}" if above else f"{below}"
        raise ValueError(f"{name}={value} does not divide {of_name}={of}; use {use}")


def _real(name: str, value: Any, use: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r} is not a number; use {use}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}={value!r} is past what a float holds; use {use}") from None


def positive_real(name: str, value: Any) -> float:
    """Return `value` as a finite float above 0, or raise `ValueError`."""
    number = _real(name, value, "a finite number above 0")
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"{name}={number} is not finite and above 0; use e.g. 1.0")
    return number


def not_negative(name: str, value: Any) -> float:
    """Return `value` as a finite float of at least 0, or raise `ValueError`."""
    number = _real(name, value, "a finite number of at least 0")
    if not (number >= 0.0 and math.isfinite(number)):
        raise ValueError(f"{name}={number} is not finite and at least 0; use e.g. 0 or 1.0")
    return number


def fraction(name: str, value: float | None) -> float | None:
    """Return `value` as a float in (0, 1], or None.

    Raises
    ------
    ValueError
        If the value is no number, outside (0, 1] or NaN.
    """
    if value is None:
        return None
    number = _real(name, value, "one above 0 and at most 1, or None")
    if not 0.0 < number <= 1.0:
        nearest = 1.0 if number > 1.0 else "a number just above 0"
        raise ValueError(f"{name}={number} is outside (0, 1]; use {nearest}, or None")
    return number


def whole_number(name: str, value: Any) -> int:
    """Return `value` as an int of at least 0, or raise `ValueError` as `positive_int` does."""
    return _integer(name, value, 0)


def packing_options(
    num_attempts: int, boost: float, max_swaps: int, target: float | None
) -> tuple[int, int, float]:
    """Check the options of the iterated greedy packing.

    Returns
    -------
    num_attempts, max_swaps : int
    target : float
        In (0, 1], or infinite for none.

    Raises
    ------
    ValueError
        For fewer than one attempt, negative swaps, a boost outside [1, 1e9], or a target outside
        (0, 1].
    """
    attempts = positive_int("num_attempts", num_attempts)
    swaps = whole_number("max_swaps", max_swaps)
    factor = _real("boost", boost, "one from 1 to 1e9, e.g. 1.05")
    if not 1.0 <= factor <= LARGEST_BOOST:
        nearest = "1" if factor < 1.0 else "1e9" if factor > LARGEST_BOOST else "e.g. 1.05"
        raise ValueError(f"boost={factor} is not a number from 1 to 1e9; use {nearest}")
    return attempts, swaps, fraction("target", target) or math.inf


def unknown_ending(path: str | os.PathLike[str], known: Collection[str] = ()) -> str | None:
    """Return words for a file's ending that is none of those known, e.g. ``the ending '.gif'``."""
    suffix = Path(path).suffix
    if suffix.lower() in known:
        return None
    return f"the ending {suffix!r}" if suffix else "no ending"
