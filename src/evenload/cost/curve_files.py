"""Files of curves: what they may look like, and the points of a curve in them."""

from __future__ import annotations

import csv
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

COLUMNS = (["tokens", "seconds"], ["active", "tokens", "seconds"])


def read_curve(path: Path) -> tuple[list[tuple[float, float]], str]:
    """Return the points of a curve, tokens and seconds, and where they come from.

    Raises `ValueError` if the columns are not known, or a line has no numbers in them.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    about: dict[str, str] = {}
    rows: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            name, _, value = line[1:].partition(":")
            about[name.strip()] = value.strip()
        elif line.strip():
            rows += ([str(number), *fields] for fields in csv.reader([line], skipinitialspace=True))
    columns = [name.strip() for name in rows[0][1:]] if rows else []
    if columns not in COLUMNS:
        known = " or ".join(",".join(names) for names in COLUMNS)
        raise ValueError(f"its first line is {','.join(columns)!r}; use {known}")
    points = [_numbers(row, columns) for row in rows[1:]]
    source = "measured on {device}, torch {torch}, {date}" if "device" in about else "{name}"
    source = source.format_map(defaultdict(lambda: "?", about | {"name": path.name}))
    if columns == COLUMNS[0]:
        return [(tokens, seconds) for tokens, seconds in points], source
    for row, numbers in zip(rows[1:], points, strict=True):
        if not (all(number >= 0.0 for number in numbers) and numbers[0] >= 1.0):
            line, *fields = row
            raise ValueError(
                f"line {line} is {','.join(fields)!r}; use numbers of at least 0, and at least 1 "
                "active"
            )
    return _of_one([(active, tokens, seconds) for active, tokens, seconds in points]), source


def _numbers(row: list[str], columns: list[str]) -> list[float]:
    line, *fields = row
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) != len(columns):
        raise ValueError(f"line {line} is {','.join(fields)!r}; use numbers for {columns}")
    return numbers


def _of_one(grid: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Return what one expert takes, from what layers with several active ones took.

    A part of the layer with most of them: few would leave most of a GPU idle, and what a layer
    costs in any case counts least there. What the last experts add would leave that out, but is a
    difference of two measurements: with little time per expert, noise made it negative.
    """
    largest: dict[float, tuple[float, float]] = {}
    for active, tokens, seconds in grid:
        largest[tokens] = max(largest.get(tokens, (0.0, 0.0)), (active, seconds))
    points = [(tokens, seconds / active) for tokens, (active, seconds) in sorted(largest.items())]
    raised = accumulate((seconds for _, seconds in points), max)  # clocks are not exact
    return [(tokens, seconds) for (tokens, _), seconds in zip(points, raised, strict=True)]
