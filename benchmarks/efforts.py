"""What more time buys: quality and time of each planner and effort, over several seeds."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.measure import interleaved, number, once, table, times
from benchmarks.planners import SOLVERS, Planner, ours, published
from benchmarks.problems import NUM_EXPERTS, NUM_LAYERS, Shape, shapes
from evenload import Placement, solve

TITLE = "Efforts"
REFERENCE = "local-search"
HEAD = ("slots/GPUs load", "planner", "balancedness", "min - max over seeds", "bound", "gap, mean",
        "gap, median", "ms", "x local-search")  # fmt: skip

# These take long: one timed call a seed, and DeepSeek's on the first seeds only.
TIMED_ONCE = ("DeepSeek EPLB", "SGLang 0.5.23", "joint thorough")
SEEDS_OF = {"DeepSeek EPLB": 3}

PANELS = ("288/32 lognormal 1.0", "320/64 lognormal 1.0", "288/96 lognormal 1.0",
          "288/144 lognormal 0.5", "288/144 zipf 1.0", "strict 288/144 lognormal 1.0")  # fmt: skip
MARKS = {"DeepSeek EPLB": "C7s", "SGLang 0.5.23": "C7D", "SGLang 0.5.23 vec": "C7P",
         "vLLM 0.33.0": "C7X", "greedy": "C0<", "iterated-greedy": "C0v", "local-search": "C0>",
         "joint fast": "C3o", "joint standard": "C3h", "joint thorough": "C3*"}  # fmt: skip
LEAST_GAP = 1e-5  # drawn at least here: a logarithm has no zero


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every planner at every shape."""
    planners, missing = published()
    planners += ours(*(name for name in SOLVERS if name != "auto"))
    seeds, rounds = (2, 1) if quick else (5, 2)
    results = [measure(shape, planners, seeds, rounds, say) for shape in shapes(quick)]
    return {"seeds": seeds, "rounds": rounds, "missing": missing, "sizes": results}


def measure(
    shape: Shape,
    planners: Sequence[Planner],
    seeds: int,
    rounds: int,
    say: Callable[[str], None],
    num_layers: int = NUM_LAYERS,
) -> dict[str, Any]:
    """Return what each planner reaches at one shape, and how long it takes."""
    found: dict[str, dict[str, list[Any]]] = {
        p.name: {"mean": [], "gap": [], "seconds": [], "ratio": []} for p in planners
    }
    bounds = []
    for seed, case in enumerate(shape.cases(seeds, num_layers)):
        say(f"{shape.name}, seed {seed}")
        calls = {p.name: partial(p.plan, *case.arguments)
                 for p in planners if seed < SEEDS_OF.get(p.name, seeds)}  # fmt: skip
        often = {name: call for name, call in calls.items() if name not in TIMED_ONCE}
        answers, seconds = (
            {name: call() for name, call in often.items()},
            interleaved(often, rounds),
        )
        for name in calls.keys() - often.keys():
            took, answers[name] = once(calls[name])
            seconds[name] = [took]
        greedy = solve(case.load, case.cluster, num_groups=case.num_groups, solver="greedy")
        bounds.append(float(greedy.bound.mean()))
        for name, answer in answers.items():
            placement = Placement(answer, case.cluster, case.load.shape[1])
            reached = placement.balancedness(case.load)
            slower = statistics.median(seconds[name]) / statistics.median(seconds[REFERENCE])
            found[name]["mean"].append(float(reached.mean()))
            found[name]["gap"].append(greedy.bound - reached)
            found[name]["seconds"] += seconds[name]
            found[name]["ratio"].append(slower)
    return {
        "name": shape.name,
        "seeds": len(bounds),
        "bound": statistics.mean(bounds),
        "planners": [{"name": name} | _summary(**record) for name, record in found.items()],
    }


def _summary(
    mean: list[float], gap: list[Any], seconds: list[float], ratio: list[float]
) -> dict[str, Any]:
    gaps = np.concatenate(gap)
    return {
        "mean": statistics.mean(mean),
        "least": min(mean),
        "most": max(mean),
        "gap_mean": float(gaps.mean()),
        "gap_median": float(np.median(gaps)),
        "ms": 1000 * statistics.median(seconds),
        "ratio": statistics.median(ratio),
        "seeds": len(mean),
    }


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = [
        [
            size["name"],
            p["name"],
            f"{p['mean']:.5f}",
            f"{p['least']:.5f} - {p['most']:.5f}",
            f"{size['bound']:.5f}",
            f"{p['gap_mean']:.5f}",
            f"{p['gap_median']:.5f}",
            number(p["ms"]),
            times(p["ratio"]),
        ]
        for size in result["sizes"]
        for p in size["planners"]
    ]
    parts = [
        f"{NUM_LAYERS} layers x {NUM_EXPERTS} experts where the load is synthetic, "
        f"{result['seeds']} seeds (a measured load is one; DeepSeek EPLB runs on 3 at most). "
        "Strict: 8 groups of experts, each on one of 4 nodes. The gap is the proven bound minus "
        "the balancedness, mean and median over all layers and seeds. Times are medians; the slow "
        "ones, DeepSeek EPLB, SGLang 0.5.23 and joint thorough, are of one call a seed. "
        "`x local-search` is the median over seeds of the time over that of `local-search`.",
        "![gap against time](../figures/efforts.png)",
        *(f"Not run: {sentence}" for sentence in result["missing"]),
        table(HEAD, rows),
    ]
    return "\n\n".join(parts)


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write one log-log panel for each of `PANELS` that was measured: gap against time."""
    figure_of(result).savefig(file, dpi=150, format="png")


def figure_of(result: dict[str, Any]) -> Any:
    """Draw the panels, with one legend below them."""
    from matplotlib.figure import Figure

    chosen = [size for name in PANELS for size in result["sizes"] if size["name"] == name]
    chosen = chosen or result["sizes"][:1]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, size in zip(grid.flat, chosen, strict=False):
        axes.set(xscale="log", yscale="log", xlabel="ms per plan", ylabel="mean gap")
        axes.set_title(f"{size['name']} (bound {size['bound']:.4f})", fontsize="medium")
        places = {p["name"]: (p["ms"], max(LEAST_GAP, p["gap_mean"])) for p in size["planners"]}
        joint = [place for name, place in places.items() if name.startswith("joint")]
        axes.plot(*zip(*joint, strict=True), "-", color="C3", alpha=0.5, linewidth=1)
        for name, place in places.items():
            axes.plot(*place, MARKS[name][2:], color=MARKS[name][:2], markersize=8,
                      fillstyle="none", markeredgewidth=1.6, label=name)  # fmt: skip
        axes.margins(x=0.12, y=0.15)
        axes.grid(visible=True, which="major", alpha=0.25)
    for axes in list(grid.flat)[len(chosen) :]:
        axes.remove()
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize="small")
    figure.suptitle("Gap to the proven bound against time: lower left is better", fontsize=11)
    return figure
