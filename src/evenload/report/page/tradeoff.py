"""Balance against moves: a point for every policy, a curve for those of one kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from evenload.report.page.labels import Box, place_labels
from evenload.report.page.score import Score

_NUMBER = re.compile(r"\d+(\.\d+)?")
_ROOM = 0.07
WIDTH, HEIGHT = 640.0, 300.0  # the plot that labels are placed for, in pixels; many are wider


@dataclass(frozen=True)
class Tradeoff:
    """The trade-off curve.

    Parameters
    ----------
    x, y : tuple of float
        Experts moved per served window, and mean balancedness, of each policy.
    curves : tuple of tuples of int
        Policies that differ in numbers or options only, fewest moves first.
    labels : tuple of str
        Where each point's label is: one of `labels.PLACES`.
    x_range, y_range : tuple of float
        What the axes reach over.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    curves: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def _family(name: str) -> str:
    """Return a policy's name without the numbers and options that it may differ in."""
    return _NUMBER.sub("N", name.partition(",")[0])


def _curves(names: Sequence[str], x: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    families: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        families.setdefault(_family(name), []).append(index)
    curves = (sorted(members, key=lambda i: (x[i], i)) for members in families.values())
    return tuple(tuple(curve) for curve in curves if len(curve) > 1)


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    width = (high - low) or max(abs(high), 1.0) * 0.1
    return low - room * width, high + room * width


def tradeoff(scores: Sequence[Score], names: Sequence[str], start: float, windows: int) -> Tradeoff:
    """Lay the policies out.

    Parameters
    ----------
    scores : sequence of Score
    names : sequence of str
        What the points are called.
    start : float
        Balancedness of the placement at the start.
    windows : int
        Windows served.
    """
    x = tuple(score.moves / windows for score in scores)
    y = tuple(score.balancedness for score in scores)
    oracle = sorted({score.oracle for score in scores if score.oracle is not None})
    x_range, y_range = _range((0.0, *x), _ROOM), _range((*y, start, *oracle), 2 * _ROOM)

    def pixels(across: float, up: float) -> tuple[float, float]:
        right = (across - x_range[0]) / (x_range[1] - x_range[0])
        high = (up - y_range[0]) / (y_range[1] - y_range[0])
        return WIDTH * right, HEIGHT * (1.0 - high)

    points = [pixels(*point) for point in zip(x, y, strict=True)]
    curves = _curves([s.name for s in scores], x)
    lines = [(points[i], points[j]) for curve in curves for i, j in pairwise(curve)]
    lines += [(pixels(x_range[0], level), pixels(x_range[1], level)) for level in (start, *oracle)]
    labels = place_labels(points, names, Box(0.0, 0.0, WIDTH, HEIGHT), lines)
    return Tradeoff(x, y, curves, labels, x_range, y_range)
