"""How the time of a plan grows with layers, experts, slots and GPUs."""

from collections.abc import Callable, Mapping
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

# Where swaps alone do not reach the target, so that layers are searched and the time is that of
# the trials (along G that begins on the way). Few layers: each takes long enough to hide what the
# call itself costs.
SEARCHED: dict[str, list[Size]] = {
    "G, 4096 slots": [(16, 512, 4096, gpus) for gpus in (256, 512, 1024)],
    "S, E and G, 4 slots a GPU": [
        (16, slots // 8, slots, slots // 4) for slots in (256, 512, 1024, 2048, 4096)
    ],
    "S, E and G, 2 slots a GPU": [
        (16, slots // 2, slots, slots // 2) for slots in (256, 512, 1024, 2048)
    ],
}

# Solver and options behind each name; the whole of `AXES` is timed for the default alone.
EFFORTS: dict[str, dict[str, str]] = {
    "local-search": {"solver": "local-search"},
    "joint fast": {"solver": "joint", "effort": "fast"},
    "joint standard": {"solver": "joint", "effort": "standard"},
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time ``solve(load, cluster)`` along each axis and at the largest size, then each effort."""
    rounds = 3 if quick else 9
    axes = {axis: _axis(sizes, {}, quick, rounds, say, axis) for axis, sizes in AXES.items()}
    searched = {
        name: {
            axis: _axis(sizes, options, quick, max(2, rounds // 3), say, f"{axis}, {name}")
            for axis, sizes in SEARCHED.items()
        }
        for name, options in EFFORTS.items()
    }
    return {"rounds": rounds, "axes": axes, "efforts": searched}


def _axis(
    sizes: list[Size],
    options: Mapping[str, str],
    quick: bool,
    rounds: int,
    say: Callable[[str], None],
    title: str,
) -> list[dict[str, Any]]:
    say(f"axis {title}")
    chosen = sizes[:: max(1, len(sizes) // 2)] if quick else sizes
    calls = {size: _call(size, options) for size in chosen}
    seconds = interleaved({str(size): call for size, call in calls.items()}, rounds)
    return [_point(size, call(), seconds[str(size)]) for size, call in calls.items()]


def _call(size: Size, options: Mapping[str, str]) -> Callable[[], Plan]:
    layers, experts, slots, gpus = size
    load = lognormal_load(layers, experts, 1.0, seed=0)
    return partial(solve, load, Cluster(gpus, num_slots=slots), **options)


def _point(size: Size, plan: Plan, seconds: list[float]) -> dict[str, Any]:
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
        "![time against each axis](../figures/scaling.png)\n\n"
        + table(head, rows)
        + _render_efforts(result.get("efforts", {}))
    )


def _render_efforts(efforts: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return a second table: what a layer costs where it has to be searched."""
    if not efforts:
        return ""
    rows = [
        [name, axis, *map(str, point["size"]), number(a_layer(point)),
         f"{point['balancedness']:.5f}", f"{point['bound']:.5f}",
         f"{exponent(axis, points):.2f}" if point is points[-1] else ""]
        for name, axes in efforts.items()
        for axis, points in axes.items()
        for point in points
    ]  # fmt: skip
    head = ("solver and effort", "axis", "L", "E", "S", "G", "us a layer", "balancedness", "bound",
            "exponent")  # fmt: skip
    return (
        "\n\nThe same by effort, where few slots a GPU leave the layers below the target of local "
        "search, so that they are searched. Along G the slots a GPU fall from 16 to 4 and the "
        "search begins on the way: its exponent counts that change too.\n\n" + table(head, rows)
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
