"""Where the names of points go, so that none lies on another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Words of plotly; the first that is free is taken.
PLACES = (
    "middle right",
    "top center",
    "bottom center",
    "middle left",
    "top right",
    "bottom right",
    "top left",
    "bottom left",
)
_CHARACTER, _LINE, _MARK, _STEP = 7.0, 16.0, 7.0, 4.0  # pixels
_ROUNDS = 4


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Its area."""
        return (self.right - self.left) * (self.bottom - self.top)


def _label(point: tuple[float, float], text: str, place: str) -> Box:
    vertical, horizontal = place.split()
    width = _CHARACTER * len(text)
    left = point[0] + {"left": -width - _MARK, "center": -width / 2, "right": _MARK}[horizontal]
    above = -_LINE - _MARK
    top = point[1] + {"top": above, "middle": -_LINE / 2, "bottom": _MARK}[vertical]
    return Box(left, top, left + width, top + _LINE)


def _along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Cover a line with small boxes."""
    steps = max(1, int(math.dist(start, end) / _STEP))
    at = [
        (start[0] + (end[0] - start[0]) * i / steps, start[1] + (end[1] - start[1]) * i / steps)
        for i in range(steps + 1)
    ]
    return [Box(x - _STEP / 2, y - _STEP / 2, x + _STEP / 2, y + _STEP / 2) for x, y in at]


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    lines: Iterable[tuple[tuple[float, float], tuple[float, float]]] = (),
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
    marks = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in points]
    drawn = [box for line in lines for box in _along(*line)]
    places = [PLACES[0]] * len(points)
    for _ in range(_ROUNDS):
        for i in range(len(points)):
            others = [_label(points[j], texts[j], places[j]) for j in range(len(points)) if j != i]
            solid = [*marks, *others]

            def covered(place: str, i: int = i, solid: Sequence[Box] = solid) -> float:
                box = _label(points[i], texts[i], place)
                written = sum(box.overlap(other) for other in solid)
                crossed = sum(box.overlap(other) for other in drawn)
                return 2.0 * (box.area - box.overlap(frame)) + 4.0 * written + crossed

            places[i] = min(PLACES, key=covered)
    return tuple(places)
