"""How far plans are from the proven bound, and how much of that is the bound's own doing."""

from collections.abc import Callable
from typing import Any

from benchmarks import gap_exact, gap_sizes
from benchmarks.sizes import sizes

TITLE = "Gap to the bound"


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Collect the gaps of all layers at every size, then compare with proven optima."""
    seeds = 1 if quick else 2
    results = [gap_sizes.measure(size, seeds, say) for size in sizes(quick)]
    missing = gap_exact.missing()
    every = gap_exact.problems(quick)
    exact = [] if missing else [gap_exact.measure(problem, say) for problem in every]
    return {"seeds": seeds, "sizes": results, "missing": missing, "exact": exact}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    return "\n\n".join(
        [
            "![distribution of the gaps](../figures/gap.png)",
            gap_sizes.render(result["sizes"], result["seeds"]),
            "### Against proven optima",
            gap_exact.render(result["exact"], result["missing"]),
        ]
    )
