"""How far plans are from the proven bound, and how much of that is the bound's own doing."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.measure import number, once, table
from benchmarks.problems import NUM_LAYERS, Shape, shapes
from evenload import Cluster, Placement, solve
from evenload.problem import Problem
from evenload.solvers.exact import solve_exactly
from evenload.synth import lognormal_load

TITLE = "Gap to the bound"
COLOURS = {"standard": "C0", "thorough": "C1"}
PERCENTS = (0, 5, 25, 50, 75, 90, 95, 100)
ALIKE = 1e-7  # relative: what the exact solver calls optimal
ROUNDING = 1e-9  # absolute: a bound below the optimum by more than this would be wrong
HEAD = ("slots/GPUs load", "effort", "median", "90 % of layers", "largest")
HEAD_EXACT = ("E/S/G load", "K", "layers", "proven", "optimum, mean", "joint, mean",
              "joint optimal", "optimum - joint, largest", "bound - optimum, median", "largest",
              "least", "s per layer")  # fmt: skip


@dataclass(frozen=True)
class Small:
    """Layers L, E, S, G of a lognormal load that the exact solver settles in seconds each."""

    layers: int
    experts: int
    slots: int
    gpus: int
    sigma: float

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{self.experts}/{self.slots}/{self.gpus} lognormal {self.sigma}"


PAIRS = [
    Small(layers, experts, slots, slots // 2, sigma)
    for layers, experts, slots in ((16, 64, 72), (8, 128, 144), (3, 256, 288))
    for sigma in (0.5, 1.0)
] + [Small(58, 256, 320, 160, 1.0)]  # a whole load of `problems.SHAPES`
FEW_EXPERTS = [
    Small(layers, experts, slots, gpus, 1.0)
    for layers, experts, slots, gpus in (
        (16, 8, 9, 3), (8, 8, 12, 4), (6, 10, 12, 4), (8, 8, 12, 3), (6, 10, 15, 3), (4, 12, 15, 3)
    )
]  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Collect the gaps of all layers at every shape, then compare with proven optima."""
    seeds = 1 if quick else 2
    results = [measure(shape, seeds, say) for shape in shapes(quick)]
    small = [PAIRS[1], FEW_EXPERTS[0]] if quick else PAIRS + FEW_EXPERTS
    why_not = missing()
    exact = [] if why_not else [against_optima(problem, say) for problem in small]
    return {"seeds": seeds, "sizes": results, "missing": why_not, "exact": exact}


def missing() -> str:
    """Return why there are no optima here, or nothing."""
    if find_spec("ortools") is None:
        return 'solver "exact" needs OR-tools, which is not installed: pip install ".[exact]"'
    return ""


def measure(
    shape: Shape, seeds: int, say: Callable[[str], None], num_layers: int = NUM_LAYERS
) -> dict[str, Any]:
    """Return percentiles of the gap over all layers and seeds, for each effort."""
    say(f"gap at {shape.name}")
    gaps: dict[str, list[float]] = {effort: [] for effort in COLOURS}
    for case in shape.cases(seeds, num_layers):
        bound = None
        for effort in COLOURS:
            plan = solve(
                case.load, case.cluster, num_groups=case.num_groups, solver="joint", effort=effort
            )
            bound = plan.bound if bound is None else bound
            gaps[effort] += (bound - plan.balancedness).tolist()
    percentiles = {
        effort: dict(zip(map(str, PERCENTS), np.percentile(gap, PERCENTS).tolist(), strict=True))
        for effort, gap in gaps.items()
    }
    return {"name": shape.name, "percentiles": percentiles}


def against_optima(small: Small, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how the joint search and the bound compare with the optima that are proven.

    They are the best placements without avoidable duplicates, as the joint search makes them.
    """
    say(f"optima of {small.name}")
    load = lognormal_load(small.layers, small.experts, small.sigma, seed=0)
    cluster = Cluster(small.gpus, num_slots=small.slots)
    seconds, best = once(lambda: solve_exactly(Problem.build(load, cluster)))
    joint = solve(load, cluster, solver="joint")
    proven = np.array(best.status) == "optimal"
    placement = Placement(best.physical_to_logical, cluster, small.experts)
    optimum, reached = placement.balancedness(load)[proven], joint.balancedness[proven]
    return {
        "name": small.name,
        "slots_per_gpu": small.slots // small.gpus,
        "layers": small.layers,
        "proven": int(proven.sum()),
        "optimum": float(optimum.mean()),
        "joint": float(reached.mean()),
        "joint_optimal": int((reached >= optimum * (1.0 - ALIKE)).sum()),
        "distance": np.maximum(optimum - reached, 0.0).tolist(),
        "slack": (joint.bound[proven] - optimum).tolist(),
        "seconds": seconds / small.layers,
    }


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = [
        (size["name"], effort, *(f"{values[percent]:.5f}" for percent in ("50", "90", "100")))
        for size in result["sizes"]
        for effort, values in size["percentiles"].items()
    ]
    seeds = f"{result['seeds']} seed{'s' if result['seeds'] > 1 else ''}"
    return "\n\n".join([
        "![distribution of the gaps](../figures/gap.png)",
        "Proven bound minus balancedness of each layer, by the joint search; all layers of "
        f"{seeds} (of the one load where it is measured).",
        table(HEAD, rows),
        "### Against proven optima",
        _render_optima(result["exact"], result["missing"]),
    ])  # fmt: skip


def _render_optima(results: list[dict[str, Any]], why_not: str) -> str:
    if why_not:
        return f"Not run: {why_not}."
    known = [result for result in results if result["proven"]]
    least = min((slack for result in known for slack in result["slack"]), default=0.0)
    honest = "is nowhere below an optimum" if least >= -ROUNDING else f"is WRONG by {-least:.2e}"
    layers = sum(result["proven"] for result in known)
    optimal = sum(result["joint_optimal"] for result in known)
    return (
        'Effort "standard" of both solvers; distances are of layers whose optimum without '
        f"avoidable duplicates is proven. The bound {honest}. The joint search is optimal in "
        f"{optimal} of {layers} layers.\n\n"
        + table(HEAD_EXACT, [_row(result) for result in results])
    )


def _row(r: dict[str, Any]) -> list[str]:
    figures = ["-"] * 7
    if r["proven"]:
        slack = r["slack"]
        last = [max(r["distance"]), np.median(slack), max(slack), min(slack)]
        figures = [f"{r['optimum']:.5f}", f"{r['joint']:.5f}",
                   f"{r['joint_optimal'] / r['proven']:.0%}",
                   *(f"{max(f, 0.0) if f > -ROUNDING else f:.5f}" for f in last)]  # fmt: skip
    counts = [str(r[key]) for key in ("slots_per_gpu", "layers", "proven")]
    return [r["name"], *counts, *figures, number(r["seconds"])]


LEAST = 1e-6  # drawn at least here: a logarithm has no zero
WIDTH = 0.36
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.04), "ncols": 3}


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write the figure."""
    figure_of(result).savefig(file, dpi=150, format="png")


def figure_of(result: dict[str, Any]) -> Any:
    """Draw boxes of the gaps on the left; on the right what is left against proven optima."""
    from matplotlib.figure import Figure

    sizes, exact = result["sizes"], result["exact"]
    figure = Figure(figsize=(13, 1.6 + 0.3 * max(8, len(sizes))), layout="constrained")
    panels = figure.subplots(1, 2 if exact else 1, squeeze=False)[0]
    for (effort, colour), shift in zip(COLOURS.items(), (-WIDTH / 2, WIDTH / 2), strict=True):
        panels[0].bxp(
            [_box(size["percentiles"][effort]) for size in sizes],
            positions=[row + shift for row in range(len(sizes))],
            widths=WIDTH * 0.85,
            orientation="horizontal",
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.6},
            medianprops={"color": "black"},
            flierprops={"marker": ".", "markersize": 4},
        )
        panels[0].plot([], [], "s", color=colour, alpha=0.6, label=f"joint {effort}")
    title = "Bound - balancedness over layers: 5, 25, 50, 75, 95 %, and the largest"
    _finish(panels[0], [size["name"] for size in sizes], title)
    if exact:
        for key, style, shift, label in (("distance", "C3o", -0.15, "optimum - joint"),
                                         ("slack", "C7o", 0.15, "bound - optimum")):  # fmt: skip
            points = [(max(LEAST, value), row + shift)
                      for row, r in enumerate(exact) for value in r[key]]  # fmt: skip
            x, y = zip(*points, strict=True) if points else ((), ())
            panels[1].plot(x, y, style[2:], color=style[:2], alpha=0.5, label=label)
        names = [f"{r['name']}, K = {r['slots_per_gpu']}" for r in exact]
        _finish(panels[1], names, f"Against proven optima, a point a layer ({LEAST:g}: none)")
    return figure


def _box(values: dict[str, float]) -> dict[str, Any]:
    names = {"whislo": "5", "q1": "25", "med": "50", "q3": "75", "whishi": "95"}
    box: dict[str, Any] = {name: max(LEAST, values[p]) for name, p in names.items()}
    return box | {"fliers": [max(LEAST, values["100"])]}


def _finish(axes: Any, names: list[str], title: str) -> None:
    axes.legend(fontsize="small", **BELOW)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(title, fontsize="medium")
    axes.grid(visible=True, axis="x", alpha=0.25)
