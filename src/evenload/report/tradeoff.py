"""Balance against moves: a point for every policy, a curve for those of one kind, and their names.

The names are placed so that none lies on another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

Point = tuple[float, float]

# Where a name is, in plotly's words, to the right of its point and above it; the first that is
# free is taken.
PLACES = {
    "middle right": (1, 0), "top center": (0, 1), "bottom center": (0, -1), "middle left": (-1, 0),
    "top right": (1, 1), "bottom right": (1, -1), "top left": (-1, 1), "bottom left": (-1, -1),
}  # fmt: skip
_CHARACTER, _LINE, _MARK, _STEP = 7.0, 16.0, 7.0, 4.0  # pixels
_ROUNDS = 4
_NUMBER = re.compile(r"\d+(\.\d+)?")
_ROOM = 0.07
WIDTH, HEIGHT = 640.0, 300.0  # the plot that names are placed for, in pixels; many are wider


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, reach: float) -> Box:
        """Return the square around a point."""
        return cls(x - reach, y - reach, x + reach, y + reach)

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def _label(point: Point, text: str, place: str) -> Box:
    (across, up), width = PLACES[place], _CHARACTER * len(text)
    left = point[0] + across * _MARK + (across - 1) / 2 * width
    top = point[1] - up * _MARK - (up + 1) / 2 * _LINE
    return Box(left, top, left + width, top + _LINE)


def _along(start: Point, end: Point) -> list[Box]:
    """Cover a line with small boxes."""
    steps = max(1, int(math.dist(start, end) / _STEP))
    across, down = end[0] - start[0], end[1] - start[1]
    return [
        Box.around(start[0] + across * i / steps, start[1] + down * i / steps, _STEP / 2)
        for i in range(steps + 1)
    ]


def place_labels(
    points: Sequence[Point],
    texts: Sequence[str],
    frame: Box,
    lines: Iterable[tuple[Point, Point]] = (),
) -> tuple[str, ...]:
    """Give every label the place where it covers least, in a few rounds, as others may change too.

    Parameters
    ----------
    points : sequence of (x, y)
        In pixels, y downwards.
    texts : sequence of str
    frame : Box
        What labels should stay in.
    lines : iterable of (point, point)
        What else is drawn; to lie on it is better than on a point or another label.

    Returns
    -------
    tuple of str
        One of `PLACES` each; the first of them on ties.
    """
    marks = [Box.around(*point, _MARK) for point in points]
    drawn = [box for line in lines for box in _along(*line)]
    places = [next(iter(PLACES))] * len(points)

    def covered(i: int, place: str) -> float:
        box = _label(points[i], texts[i], place)
        others = (_label(points[j], texts[j], places[j]) for j in range(len(points)) if j != i)
        written = sum(box.overlap(other) for other in (*marks, *others))
        crossed = sum(box.overlap(other) for other in drawn)
        outside = box.overlap(box) - box.overlap(frame)
        return 2.0 * outside + 4.0 * written + crossed

    for _ in range(_ROUNDS):
        for i in range(len(points)):
            places[i] = min(PLACES, key=partial(covered, i))
    return tuple(places)


class Tradeoff(NamedTuple):
    """The trade-off curve; one entry a policy in `x`, `y` and `labels`."""

    x: tuple[float, ...]  # experts moved per served window
    y: tuple[float, ...]  # mean balancedness
    curves: tuple[tuple[int, ...], ...]  # policies that differ in numbers only, fewest moves first
    labels: tuple[str, ...]  # where each point's label is: one of `PLACES`
    x_range: Point  # what the axes reach over
    y_range: Point


def _curves(policies: Sequence[str], x: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Group policies whose names differ in numbers and options only."""
    families: dict[str, list[int]] = {}
    for index, name in enumerate(policies):
        families.setdefault(_NUMBER.sub("N", name.partition(",")[0]), []).append(index)
    curves = (sorted(members, key=lambda i: (x[i], i)) for members in families.values())
    return tuple(tuple(curve) for curve in curves if len(curve) > 1)


def _range(values: Sequence[float], room: float) -> Point:
    low, high = min(values), max(values)
    width = (high - low) or max(abs(high), 1.0) * 0.1
    return low - room * width, high + room * width


def tradeoff(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], levels: Sequence[float]
) -> Tradeoff:
    """Lay the policies out: `rows` as `Replay.figures`, what their points are called, and `levels`.

    Those are balancednesses with a line across: of the starting placement and the oracle.
    """
    x = tuple(row["moves"] / row["windows"] for row in rows)
    y = tuple(row["balancedness"] for row in rows)
    x_range, y_range = _range((0.0, *x), _ROOM), _range((*y, *levels), 2 * _ROOM)

    def pixels(across: float, up: float) -> Point:
        right = (across - x_range[0]) / (x_range[1] - x_range[0])
        high = (up - y_range[0]) / (y_range[1] - y_range[0])
        return WIDTH * right, HEIGHT * (1.0 - high)

    points = [pixels(*point) for point in zip(x, y, strict=True)]
    curves = _curves([row["policy"] for row in rows], x)
    lines = [(points[i], points[j]) for curve in curves for i, j in pairwise(curve)]
    lines += [(pixels(x_range[0], level), pixels(x_range[1], level)) for level in levels]
    labels = place_labels(points, names, Box(0.0, 0.0, WIDTH, HEIGHT), lines)
    return Tradeoff(x, y, curves, labels, x_range, y_range)
