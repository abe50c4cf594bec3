"""Bytes and seconds in units that people read."""

from __future__ import annotations


def show_bytes(count: float) -> str:
    """Show bytes with a decimal unit, e.g. ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000.0:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:,.1f} TB"


def show_seconds(seconds: float) -> str:
    """Show a duration, e.g. ``340 ms`` or ``12.3 s``."""
    if seconds == 0.0:
        return "0 s"
    for unit, length in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * length:
            return f"{seconds / length:.3g} {unit}"
    if seconds < 600.0:
        return f"{seconds:.3g} s"
    return f"{seconds / 60.0:,.1f} min"
