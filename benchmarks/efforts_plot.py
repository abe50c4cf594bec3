"""The figure of `benchmarks.efforts`: gap against time, a panel a size, every point labelled."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

PANELS = ("288/32 lognormal 1.0", "320/64 lognormal 1.0", "288/96 lognormal 1.0",
          "288/144 lognormal 0.5", "288/144 zipf 1.0", "strict 288/144 lognormal 1.0")  # fmt: skip
PEERS = {
    "DeepSeek EPLB": "DeepSeek",
    "SGLang 0.5.23": "SGLang",
    "SGLang 0.5.23 vec": "SGLang vec",
    "vLLM 0.33.0": "vLLM",
}
LEAST_GAP = 1e-5  # drawn at least here: a logarithm has no zero
DISTANCES = (6, 12, 20, 30, 42)  # points from a point to its label, the nearest free one is taken
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
NEAR = 120  # pixels within which a point pushes another's label away
SIDE = {1: "left", 0: "center", -1: "right"}
HEIGHT = {1: "bottom", 0: "center", -1: "top"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Write one log-log panel for each of the panels' sizes that were measured."""
    chosen = [size for name in PANELS for size in result["sizes"] if size["name"] == name]
    chosen = chosen or result["sizes"][:1]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)  # labels are measured before the figure is written
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(zip(grid.flat, chosen, strict=False))
    for axes in list(grid.flat)[len(chosen) :]:
        axes.remove()
    for axes, size in panels:
        _points(axes, size)
    figure.suptitle("Gap to the proven bound against time: lower left is better", fontsize=11)
    figure.draw_without_rendering()  # places are final, so labels can be put where there is room
    figure.set_layout_engine("none")
    for axes, size in panels:
        _labels(axes, size)
    figure.savefig(path, format="png")


def _place(planner: dict[str, Any]) -> tuple[float, float]:
    return planner["ms"], max(LEAST_GAP, planner["gap_mean"])


def _colour(name: str) -> str:
    return "C7" if name in PEERS else "C3" if name.startswith("joint") else "C0"


def _points(axes: Any, size: dict[str, Any]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="ms a plan", ylabel="mean gap")
    axes.set_title(f"{size['name']} (bound {size['bound']:.4f})", fontsize="medium")
    for planner in size["planners"]:
        axes.plot(*_place(planner), "o", color=_colour(planner["name"]), markersize=6)
    efforts = [_place(p) for p in size["planners"] if p["name"].startswith("joint")]
    axes.plot(*zip(*efforts, strict=True), "-", color="C3", alpha=0.5, linewidth=1)
    gaps = [_place(planner)[1] for planner in size["planners"]]
    axes.margins(x=0.45)
    reach = max(max(gaps) / min(gaps), 3.0)
    axes.set_ylim(min(gaps) / reach**0.35, max(gaps) * reach**0.35)
    axes.grid(visible=True, which="major", alpha=0.25)


def _labels(axes: Any, size: dict[str, Any]) -> None:
    """Write each name at the first of some places that is inside and covers nothing."""
    frame = axes.get_window_extent()
    centres = [axes.transData.transform(_place(planner)) for planner in size["planners"]]
    lines = [
        centre
        for planner, centre in zip(size["planners"], centres, strict=True)
        if planner["name"].startswith("joint")
    ]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in [*centres, *_along(lines)]]
    for planner, centre in zip(size["planners"], centres, strict=True):
        name = planner["name"]
        directions = _away(centre, centres)
        box = _label(axes, PEERS.get(name, name), planner, frame, taken, directions)
        taken.append(box.padded(3))


def _along(points: list[Any]) -> list[Any]:
    """Return places in pixels along the lines from each point to the next."""
    shares = np.linspace(0.0, 1.0, 20)[:, None]
    return [place for a, b in pairwise(points) for place in a + shares * (b - a)]


def _away(centre: Any, centres: list[Any]) -> list[tuple[int, int]]:
    """Return the directions, those away from the near points first."""
    near = [other for other in centres if 0 < np.hypot(*(other - centre)) < NEAR]
    push = sum((centre - other for other in near), np.zeros(2))
    return sorted(DIRECTIONS, key=lambda way: -float(np.sign(round(np.dot(way, push)))))


def _label(
    axes: Any,
    text: str,
    planner: dict[str, Any],
    frame: Bbox,
    taken: list[Bbox],
    directions: list[tuple[int, int]],
) -> Bbox:
    label = axes.annotate(
        text, _place(planner), (0, 0), textcoords="offset points", fontsize=8,
        color=_colour(planner["name"]),
        arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 3},
    )  # fmt: skip
    fewest = None
    for distance in DISTANCES:
        for right, up in directions:
            place = (distance * right, distance * up, right, up)
            box = _put(label, place)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covered = sum(box.overlaps(other) for other in taken) + (0 if inside else 100)
            if covered == 0:
                return box
            if fewest is None or covered < fewest[0]:
                fewest = (covered, place)
    return _put(label, fewest[1])


def _put(label: Any, place: tuple[int, int, int, int]) -> Bbox:
    """Move a label by points, aligned away from its point, and return the pixels it covers."""
    x, y, right, up = place
    label.set_position((x, y))
    label.set_horizontalalignment(SIDE[right])
    label.set_verticalalignment(HEIGHT[up])
    label.update_positions(label.figure.canvas.get_renderer())
    return Text.get_window_extent(label)  # an annotation's own extent counts its line as well
