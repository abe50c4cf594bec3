"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left-aligned and the others right-aligned."""
    lines = [_line(head), _line([":--", *("--:" for _ in head[1:])])]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def number(value: float) -> str:
    """Return a positive number with three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def times(value: float | None) -> str:
    """Return a ratio like ``12.3x``, or a dash where there is none."""
    return "-" if value is None else f"{number(value)}x"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
