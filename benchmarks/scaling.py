"""How the time of a plan grows with layers, experts, slots and GPUs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measure import interleaved, summary
from benchmarks.tables import number, table
from evenload import Cluster, Plan, solve
from evenload.synth import lognormal_load

TITLE = "Scaling"

Size = tuple[int, int, int, int]  # L, E, S, G

LARGEST: Size = (94, 512, 4096, 1024)

# One axis at a time, the others fixed where all its values are legal and none is trivial (an
# expert heavier than a GPU's share ends the search at once); then all but L; then the largest.
AXES: dict[str, list[Size]] = {
    "L": [(layers, 256, 288, 32) for layers in (1, 4, 16, 58, 94)],
    "E": [(58, experts, 576, 32) for experts in (32, 64, 128, 256, 512)],
    "S": [(58, 256, slots, 32) for slots in (288, 576, 1152, 2304, 4096)],
    "G": [(58, 512, 4096, gpus) for gpus in (16, 64, 256, 512, 1024)],
    "S, E and G, 4 slots a GPU": [
        (58, slots // 8, slots, slots // 4) for slots in (256, 512, 1024, 2048, 4096)
    ],
    "largest": [LARGEST],
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time ``solve(load, cluster)`` along each axis, and at the largest size."""
    rounds = 3 if quick else 9
    axes = {}
    for axis, sizes in AXES.items():
        say(f"axis {axis}")
        chosen = sizes[:: max(1, len(sizes) // 2)] if quick else sizes
        axes[axis] = [_point(size, seconds) for size, seconds in _times(chosen, rounds).items()]
    return {"rounds": rounds, "axes": axes}


def _times(sizes: list[Size], rounds: int) -> dict[Size, list[float]]:
    names = {str(size): size for size in sizes}
    calls = {name: _call(size) for name, size in names.items()}
    return {names[name]: seconds for name, seconds in interleaved(calls, rounds).items()}


def _call(size: Size) -> Callable[[], Plan]:
    layers, experts, slots, gpus = size
    load = lognormal_load(layers, experts, 1.0, seed=0)
    return partial(solve, load, Cluster(gpus, num_slots=slots))


def _point(size: Size, seconds: list[float]) -> dict[str, Any]:
    plan = _call(size)()
    return {
        "size": list(size),
        "ms": summary(seconds),
        "balancedness": float(plan.balancedness.mean()),
        "bound": float(plan.bound.mean()),
    }


def exponent(axis: str, points: list[dict[str, Any]]) -> float:
    """Return the slope of log(time of a layer) over log(size) along an axis, by least squares."""
    sizes = [position(axis, point) for point in points]
    return float(np.polyfit(np.log(sizes), np.log([a_layer(point) for point in points]), 1)[0])


def a_layer(point: dict[str, Any]) -> float:
    """Return the median time of one layer in microseconds."""
    return float(1000 * point["ms"]["median"] / point["size"][0])


def position(axis: str, point: dict[str, Any]) -> int:
    """Return where a point lies on its axis."""
    return int(point["size"]["LESG".index(axis[0])])


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows: list[list[str]] = []
    for axis, points in result["axes"].items():
        slopes = [""] * len(points)
        if axis != "largest":
            slopes[-1] = f"{exponent(axis, points):.2f}"
        rows += [_row(axis, *both) for both in zip(points, slopes, strict=True)]
    fewest, most = 256, LARGEST[2]
    reference = np.log(most * np.log(most) / (fewest * np.log(fewest))) / np.log(most / fewest)
    head = ("axis", "L", "E", "S", "G", "ms", "us a layer", "us a layer / (S log2 S)",
            "balancedness", "bound", "exponent")  # fmt: skip
    return (
        f"`solve(load, cluster)` on lognormal loads (sigma 1), medians of {result['rounds']}. The "
        "exponent is the slope of a layer's time along the axis, both logarithmic; that of S log S "
        f"between {fewest} and {most} slots is {reference:.2f}.\n\n"
        "![time against each axis](../figures/scaling.png)\n\n" + table(head, rows)
    )


def _row(axis: str, point: dict[str, Any], slope: str) -> list[str]:
    slots = point["size"][2]
    layer = a_layer(point)
    return [
        axis,
        *map(str, point["size"]),
        number(point["ms"]["median"]),
        number(layer),
        f"{layer / (slots * np.log2(slots)):.4f}",
        f"{point['balancedness']:.5f}",
        f"{point['bound']:.5f}",
        slope,
    ]
