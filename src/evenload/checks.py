"""Checks that several nouns share: each returns a plain value, or names the nearest legal one."""

import difflib
import math
import operator
import os
from bisect import bisect
from collections.abc import Collection
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

LARGEST = 2**63 - 1  # what an int64 holds
LARGEST_BOOST = 1e9  # far beyond any use, and no float type overflows


def whole_number(name: str, value: Any, least: int = 0, most: float = LARGEST) -> int:
    """Take anything with ``__index__`` but a bool, from `least` to `most`."""
    number = None
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy 1 takes its own for integers
        with suppress(TypeError):
            number = operator.index(value)
    if number is None:
        raise ValueError(f"{name}={value!r} is not an integer; use an integer of at least {least}")
    if number < least:
        raise ValueError(f"{name}={number} is less than {least}; use {least} or more")
    if number > most:
        holds = "an int64 holds" if most == LARGEST else f"{most}"
        raise ValueError(f"{name}={number} is more than {holds}; use {most} or less")
    return number


def positive_int(name: str, value: Any) -> int:
    """Take an integer of at least 1."""
    return whole_number(name, value, 1)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """Take one of the words that are known."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={value!r} is unknown; use one of: {', '.join(known)}")
    return value


def nearest(name: str, known: Collection[str]) -> str:
    """Say which of the known names to use: the one like `name`, else any."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"use {near[0]}" if near else f"use one of: {', '.join(known)}"


def multiple(name: str, value: int, of_name: str, of: int) -> None:
    """Raise `ValueError` unless `value` is a multiple of `of`, naming the multiples around it."""
    if value % of:
        below, above = value // of * of, (value // of + 1) * of
        use = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"{name}={value} is not a multiple of {of_name}={of}; use {use}")


def divisor(name: str, value: Any, of_name: str, of: int) -> int:
    """Take an integer of at least 1 that divides `of`, or name the divisors around it."""
    number = positive_int(name, value)
    if of % number:
        divisors = [d for d in range(1, of + 1) if of % d == 0]
        at = bisect(divisors, number)
        use = " or ".join(map(str, divisors[at - 1 : at + 1]))
        raise ValueError(f"{name}={number} does not divide {of_name}={of}; use {use}")
    return number


def _real(name: str, value: Any, use: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={value!r} is not a number; use {use}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}={value!r} is past what a float holds; use {use}") from None


def positive_real(name: str, value: Any) -> float:
    """Take a finite number above 0."""
    number = _real(name, value, "a finite number above 0")
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name}={number} is not finite and above 0; use e.g. 1.0")
    return number


def not_negative(name: str, value: Any) -> float:
    """Take a finite number of at least 0."""
    number = _real(name, value, "a finite number of at least 0")
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name}={number} is not finite and at least 0; use e.g. 0 or 1.0")
    return number


def part(name: str, value: Any, *, above_zero: bool = True) -> float:
    """Take a number up to 1, above 0 or from it."""
    number = (positive_real if above_zero else not_negative)(name, value)
    if number > 1.0:
        raise ValueError(f"{name}={number} is more than 1; use 1 or less")
    return number


def fraction(name: str, value: float | None) -> float | None:
    """Take a number in (0, 1], or None."""
    if value is None:
        return None
    number = _real(name, value, "one above 0 and at most 1, or None")
    if not 0.0 < number <= 1.0:
        nearest = 1.0 if number > 1.0 else "a number just above 0"
        raise ValueError(f"{name}={number} is outside (0, 1]; use {nearest}, or None")
    return number


def in_range(name: str, value: Any, low: float, high: float) -> float:
    """Take a number from `low` to `high`."""
    number = _real(name, value, f"one from {low:g} to {high:g}")
    if not low <= number <= high:
        use = high if number > high else low
        raise ValueError(f"{name}={number} is not a number from {low:g} to {high:g}; use {use:g}")
    return number


def packing_options(
    num_attempts: int, boost: float, max_swaps: int, target: float | None
) -> tuple[int, int, float]:
    """Return attempts, swaps and target (infinite for none) of the iterated greedy, checked."""
    attempts = positive_int("num_attempts", num_attempts)
    swaps = whole_number("max_swaps", max_swaps)
    in_range("boost", boost, 1.0, LARGEST_BOOST)
    return attempts, swaps, fraction("target", target) or math.inf


def printable(text: str) -> str:
    """Return text in one line, whatever it is: what does not print is shown escaped, as ESC is.

    A file's name, or what is quoted from a file, may otherwise move a terminal's cursor.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unknown_ending(path: str | os.PathLike[str], known: Collection[str] = ()) -> str | None:
    """Return words for a file's ending that is none of those known, e.g. ``the ending '.gif'``."""
    suffix = Path(path).suffix
    if suffix.lower() in known:
        return None
    return f"the ending {suffix!r}" if suffix else "no ending"
