"""The distribution over layers of bound minus balancedness, at every size."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.loads import NUM_LAYERS
from benchmarks.sizes import Size
from benchmarks.tables import table
from evenload import solve

EFFORTS = ("standard", "thorough")
PERCENTS = (0, 5, 25, 50, 75, 90, 95, 100)
HEAD = ("slots/GPUs load", "effort", "median", "90 % of layers", "largest", "wanted of the median")


def most_median(size: Size) -> float | None:
    """Return the median gap that effort "standard" should not exceed, or None for any."""
    if size.strict or not size.is_drawn:
        return None
    if size.slots_per_gpu == 9:
        return 0.001
    return 0.02 if size.slots_per_gpu <= 3 and size.load.startswith("lognormal") else None


def measure(
    size: Size, seeds: int, say: Callable[[str], None], num_layers: int = NUM_LAYERS
) -> dict[str, Any]:
    """Return percentiles of the gap over all layers and seeds, for each effort."""
    say(f"gap at {size.name}")
    gaps: dict[str, list[float]] = {effort: [] for effort in EFFORTS}
    for case in size.cases(seeds, num_layers):
        bound = None
        for effort in EFFORTS:
            plan = solve(
                case.load, case.cluster, num_groups=case.num_groups, solver="joint", effort=effort
            )
            bound = plan.bound if bound is None else bound
            gaps[effort] += (bound - plan.balancedness).tolist()
    return {
        "name": size.name,
        "wanted": most_median(size),
        "percentiles": {effort: percentiles(values) for effort, values in gaps.items()},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the gap that each of `PERCENTS` of the layers do not exceed."""
    return {
        str(percent): float(gap)
        for percent, gap in zip(PERCENTS, np.percentile(values, PERCENTS), strict=True)
    }


def verdict(median: float, most: float | None) -> str:
    """Say whether a median is as small as wanted, and by how much not."""
    if most is None:
        return ""
    if median <= most:
        return f"<= {most:g}: pass"
    return f"<= {most:g}: falls short by {median - most:.5f}"


def render(results: list[dict[str, Any]], seeds: int) -> str:
    """Return a sentence and the Markdown table."""
    rows = [
        (
            size["name"],
            effort,
            *(f"{values[percent]:.5f}" for percent in ("50", "90", "100")),
            verdict(values["50"], size["wanted"]) if effort == "standard" else "",
        )
        for size in results
        for effort, values in size["percentiles"].items()
    ]
    return (
        "Proven bound minus balancedness of each layer, by the joint search; all layers of "
        f"{seeds} seed{'s' if seeds > 1 else ''} (of the one load where it is measured).\n\n"
        + table(HEAD, rows)
    )
