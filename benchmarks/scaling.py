"""How the time of a plan grows with layers, experts, slots and GPUs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.measure import interleaved, number, summary, table
from benchmarks.planners import SOLVERS
from evenload import Cluster, solve
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
    "S, E and G, 4 slots per GPU": [
        (58, slots // 8, slots, slots // 4) for slots in (256, 512, 1024, 2048, 4096)
    ],
    "largest": [LARGEST],
}

# Where swaps alone do not reach the target, so that layers are searched and the time is that of
# the trials (along G that begins on the way). Few layers: each takes long enough to hide what the
# call itself costs.
SEARCHED: dict[str, list[Size]] = {
    "G, 4096 slots": [(16, 512, 4096, gpus) for gpus in (256, 512, 1024)],
    "S, E and G, 4 slots per GPU": [
        (16, slots // 8, slots, slots // 4) for slots in (256, 512, 1024, 2048, 4096)
    ],
    "S, E and G, 2 slots per GPU": [
        (16, slots // 2, slots, slots // 2) for slots in (256, 512, 1024, 2048)
    ],
}

EFFORTS = ("local-search", "joint fast", "joint standard")  # `AXES` are timed for the default
HEAD = ("L", "E", "S", "G")


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time ``solve(load, cluster)`` along each axis and at the largest size, then each effort."""
    rounds = 3 if quick else 9

    def along(sizes: list[Size], options: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
        chosen = sizes[:: max(1, len(sizes) // 2)] if quick else sizes
        calls = {}
        for L, E, S, G in chosen:
            load = lognormal_load(L, E, 1.0, seed=0)
            calls[str((L, E, S, G))] = partial(solve, load, Cluster(G, num_slots=S), **options)
        seconds, points = interleaved(calls, rounds), []
        for size in chosen:
            plan = calls[str(size)]()
            points.append({
                "size": list(size),
                "ms": summary(seconds[str(size)]),
                "balancedness": float(plan.balancedness.mean()),
                "bound": float(plan.bound.mean()),
            })  # fmt: skip
        return points

    result: dict[str, Any] = {"rounds": rounds, "axes": {}, "efforts": {}}
    for axis, sizes in AXES.items():
        say(f"axis {axis}")
        result["axes"][axis] = along(sizes, {}, rounds)
    for name in EFFORTS:
        say(name)
        result["efforts"][name] = {
            axis: along(sizes, SOLVERS[name], max(2, rounds // 3))
            for axis, sizes in SEARCHED.items()
        }
    return result


def exponent(axis: str, points: list[dict[str, Any]]) -> float:
    """Return the slope of log(time of a layer) over log(size) along an axis, by least squares."""
    sizes = [position(axis, point) for point in points]
    return float(np.polyfit(np.log(sizes), np.log([per_layer(point) for point in points]), 1)[0])


def per_layer(point: dict[str, Any]) -> float:
    """Return the median time of one layer in microseconds."""
    return float(1000 * point["ms"]["median"] / point["size"][0])


def position(axis: str, point: dict[str, Any]) -> int:
    """Return where a point lies on its axis."""
    return int(point["size"]["LESG".index(axis[0])])


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows, searched = [], []
    for axis, points in result["axes"].items():
        for point in points:
            slots, layer = point["size"][2], per_layer(point)
            slope = point is points[-1] and axis != "largest"
            rows.append([
                axis, *map(str, point["size"]), number(point["ms"]["median"]), number(layer),
                f"{layer / (slots * np.log2(slots)):.4f}", f"{point['balancedness']:.5f}",
                f"{point['bound']:.5f}", f"{exponent(axis, points):.2f}" if slope else "",
            ])  # fmt: skip
    for name, axes in result["efforts"].items():
        searched += [
            [name, axis, *map(str, point["size"]), number(per_layer(point)),
             f"{point['balancedness']:.5f}", f"{point['bound']:.5f}",
             f"{exponent(axis, points):.2f}" if point is points[-1] else ""]
            for axis, points in axes.items()
            for point in points
        ]  # fmt: skip
    fewest, most = 256, LARGEST[2]
    reference = np.log(most * np.log(most) / (fewest * np.log(fewest))) / np.log(most / fewest)
    return "\n\n".join([
        f"`solve(load, cluster)` on lognormal loads (sigma 1), medians of {result['rounds']}. The "
        "exponent is the slope of a layer's time along the axis, both logarithmic; that of S log S "
        f"between {fewest} and {most} slots is {reference:.2f}.",
        "![time against each axis](../figures/scaling.png)",
        table(("axis", *HEAD, "ms", "µs per layer", "µs per layer / (S log2 S)", "balancedness",
               "bound", "exponent"), rows),
        "The same by effort, where few slots per GPU leave the layers below the target of local "
        "search, so that they are searched. Along G the slots per GPU fall from 16 to 4 and the "
        "search begins on the way: its exponent counts that change too.",
        table(("solver and effort", "axis", *HEAD, "µs per layer", "balancedness", "bound",
               "exponent"), searched),
    ])  # fmt: skip


TICKS = (256, 512, 1024, 2048, 4096)


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write the log-log plot of time per layer against each axis, with a line of S log S."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="size of the axis")
        axes.grid(visible=True, which="both", alpha=0.2)
    left.set_ylabel("microseconds per layer")
    drawn = {axis: points for axis, points in result["axes"].items() if axis != "largest"}
    for axis, points in drawn.items():
        _line(left, axis, points, "o-")
    for points in (points for axis, points in drawn.items() if axis[0] == "S"):
        slots = np.array([point["size"][2] for point in points])
        shape = slots * np.log2(slots)
        left.plot(slots, shape / shape[0] * per_layer(points[0]), "k--")
    left.plot([], [], "k--", label="S log S")
    (largest,) = result["axes"]["largest"]
    left.plot(largest["size"][2], per_layer(largest), "k*", markersize=11,
              label="largest: 94 x 512, 4096 slots, 1024 GPUs")  # fmt: skip
    left.legend(fontsize="small")
    right.set_title("layers that have to be searched", fontsize="medium")
    right.set_xticks(TICKS, map(str, TICKS), minor=False)
    right.set_xticks([], minor=True)
    for colour, (name, lines) in enumerate(result["efforts"].items()):
        for style, (axis, points) in zip(("o:", "o-", "s--"), lines.items(), strict=True):
            _line(right, axis, points, style, f"{name}: ", f"C{colour}")
    # Nine lines leave no room inside.
    right.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    figure.savefig(file, dpi=150, format="png")


def _line(
    axes: Any, axis: str, points: list[dict[str, Any]], style: str, before: str = "",
    colour: str | None = None,
) -> None:  # fmt: skip
    label = f"{before}{axis} (exponent {exponent(axis, points):+.2f})"
    axes.plot([position(axis, point) for point in points], [per_layer(point) for point in points],
              style, color=colour, label=label)  # fmt: skip
