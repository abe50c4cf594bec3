"""Names beside the points of a plot, where they cover neither points nor lines nor each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.text import Text
from matplotlib.transforms import Bbox

DISTANCES = (6, 12, 20, 30, 42, 56)  # points from a point to its label, the nearest free is taken
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
NEAR = 120  # pixels within which a point pushes another's label away
DOT = 7  # pixels around a point or a place on a line that are its own
SIDE = {1: "left", 0: "center", -1: "right"}
HEIGHT = {1: "bottom", 0: "center", -1: "top"}


@dataclass
class _Taken:
    """What a new label must not cover, in pixels.

    Attributes
    ----------
    frame : Bbox
        Has to be kept to.
    dots : list of Bbox
        The points, and places along the lines.
    leaders : list of Bbox
        Places along the lines from points to their labels.
    labels : list of Bbox
    """

    frame: Bbox
    dots: list[Bbox]
    leaders: list[Bbox] = field(default_factory=list)
    labels: list[Bbox] = field(default_factory=list)

    def covered(self, centre: Any, box: Bbox) -> int:
        """Count what a label in a box and the line to it from its point would cover."""
        frame = self.frame
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
        inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
        below = sum(box.overlaps(other) for other in self.dots + self.leaders + self.labels)
        others = [dot for dot in self.dots if not dot.contains(*centre)]
        crossed = sum(
            any(part.overlaps(other) for part in leader_of(centre, box))
            for other in others + self.labels
        )
        return below + crossed + (0 if inside else 100)

    def add(self, centre: Any, box: Bbox) -> None:
        """Keep the place of a label."""
        self.labels.append(box.padded(3))
        self.leaders += leader_of(centre, box)


def leader_of(centre: Any, box: Bbox) -> list[Bbox]:
    """Return places in pixels along the line from a point to its label's box."""
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    places = [place for place in along([centre, middle]) if not box.contains(*place)]
    return [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in places]


def along(points: Sequence[Any]) -> list[Any]:
    """Return places in pixels along the lines from each point to the next."""
    shares = np.linspace(0.0, 1.0, 20)[:, None]
    return [place for a, b in pairwise(points) for place in a + shares * (b - a)]


def write(
    axes: Any,
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    colours: Sequence[str],
    line: Sequence[tuple[float, float]],
) -> None:
    """Write each name at the first of some places that is inside and covers nothing.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        In their final place.
    names, points, colours
        One of each for a label.
    line : sequence of (float, float)
        Points that a line joins, which is not to be covered either.
    """
    centres = [axes.transData.transform(point) for point in points]
    places = [*centres, *along([axes.transData.transform(point) for point in line])]
    dots = [Bbox.from_bounds(x - DOT, y - DOT, 2 * DOT, 2 * DOT) for x, y in places]
    taken = _Taken(axes.get_window_extent(), dots)
    for name, point, colour, centre in zip(names, points, colours, centres, strict=True):
        label = axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=8, color=colour,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 3},
        )  # fmt: skip
        taken.add(centre, _put_where_free(label, centre, taken, _away(centre, centres)))


def _away(centre: Any, centres: list[Any]) -> list[tuple[int, int]]:
    """Return the directions, those away from the near points first."""
    near = [other for other in centres if 0 < np.hypot(*(other - centre)) < NEAR]
    push = sum((centre - other for other in near), np.zeros(2))
    return sorted(DIRECTIONS, key=lambda way: -float(np.sign(round(np.dot(way, push)))))


def _put_where_free(
    label: Any, centre: Any, taken: _Taken, directions: list[tuple[int, int]]
) -> Bbox:
    fewest = None
    for distance in DISTANCES:
        for right, up in directions:
            place = (distance * right, distance * up, right, up)
            covered = taken.covered(centre, _put(label, place))
            if fewest is None or covered < fewest[0]:
                fewest = (covered, place)
            if covered == 0:
                return _put(label, place)
    return _put(label, fewest[1])


def _put(label: Any, place: tuple[int, int, int, int]) -> Bbox:
    """Move a label by points, aligned away from its point, and return the pixels it covers."""
    x, y, right, up = place
    label.set_position((x, y))
    label.set_horizontalalignment(SIDE[right])
    label.set_verticalalignment(HEIGHT[up])
    label.update_positions(label.figure.canvas.get_renderer())
    return Text.get_window_extent(label)  # an annotation's own extent counts its line as well
