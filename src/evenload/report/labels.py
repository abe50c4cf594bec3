"""Names beside points, placed so that none lies on another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Boxes = NDArray[np.float64]  # left, top, right and bottom of each in pixels, y downwards: [n, 4]

# Where a name is, in plotly's words, to the right of its point and above it; the first that is
# free is taken.
PLACES = {
    "middle right": (1, 0), "top center": (0, 1), "bottom center": (0, -1), "middle left": (-1, 0),
    "top right": (1, 1), "bottom right": (1, -1), "top left": (-1, 1), "bottom left": (-1, -1),
}  # fmt: skip
_CHARACTER, _LINE, _MARK, _STEP = 7.0, 16.0, 7.0, 4.0  # pixels
_ROUNDS = 4


def _around(points: NDArray[np.float64], reach: float) -> Boxes:
    return np.hstack([points - reach, points + reach])


def _along(start: Point, end: Point) -> Boxes:
    """Cover a line with small boxes."""
    steps = max(1, int(math.dist(start, end) / _STEP))
    return _around(np.linspace(start, end, steps + 1), _STEP / 2)


def _label(point: Point, text: str, place: str) -> Boxes:
    (across, up), width = PLACES[place], _CHARACTER * len(text)
    left = point[0] + across * _MARK + (across - 1) / 2 * width
    top = point[1] - up * _MARK - (up + 1) / 2 * _LINE
    return np.array([[left, top, left + width, top + _LINE]])


def _shared(box: Boxes, others: Boxes) -> float:
    """Return the area that a box shares with others, in all."""
    low, high = np.maximum(box[:, :2], others[:, :2]), np.minimum(box[:, 2:], others[:, 2:])
    return float(np.maximum(high - low, 0.0).prod(axis=1).sum())


def place_labels(
    points: Sequence[Point],
    texts: Sequence[str],
    frame: tuple[float, float],
    lines: Iterable[tuple[Point, Point]] = (),
) -> list[str]:
    """Give every label the place where it covers least, in a few rounds, as others may change too.

    Parameters
    ----------
    points : sequence of (x, y)
        In pixels, y downwards.
    texts : sequence of str
    frame : (width, height)
        What labels should stay in.
    lines : iterable of (point, point)
        What else is drawn; to lie on it is better than on a point or another label.

    Returns
    -------
    list of str
        One of `PLACES` each; the first of them on ties.
    """
    marks, inside = _around(np.array(points), _MARK), np.array([[0.0, 0.0, *frame]])
    drawn = np.vstack([np.empty((0, 4)), *(_along(*line) for line in lines)])
    places = [next(iter(PLACES))] * len(points)

    def covered(i: int, place: str) -> float:
        box = _label(points[i], texts[i], place)
        others = [_label(points[j], texts[j], places[j]) for j in range(len(points)) if j != i]
        outside = _shared(box, box) - _shared(box, inside)
        written = _shared(box, np.vstack([marks, *others]))
        # Rounded, so that a tie is one however the sums came about.
        return round(2.0 * outside + 4.0 * written + _shared(box, drawn), 6)

    for _ in range(_ROUNDS):
        for i in range(len(points)):
            places[i] = min(PLACES, key=partial(covered, i))
    return places
