"""The table of `benchmarks.efforts`, and what is wanted of the joint search."""

from typing import Any

from benchmarks import wanted
from benchmarks.loads import NUM_EXPERTS, NUM_LAYERS
from benchmarks.tables import number, table, times

JUDGED = "joint standard"
HEAD = ("slots/GPUs load", "planner", "balancedness", "min - max over seeds", "bound", "gap, mean",
        "gap, median", "ms", "x local-search", "wanted")  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return what was measured, what is wanted and fell short, and the table."""
    parts = [
        f"{NUM_LAYERS} layers x {NUM_EXPERTS} experts where the load is synthetic, "
        f"{result['seeds']} seeds (a measured load is one; DeepSeek EPLB runs on 3 at most). "
        "Strict: 8 groups of experts, each on one of 4 nodes. The gap is the proven bound minus "
        "the balancedness, mean and median over all layers and seeds. Times are medians; the slow "
        "ones, DeepSeek EPLB, SGLang 0.5.23 and joint thorough, are of one call a seed. "
        "`x local-search` is the median over seeds of the time over that of `local-search`.",
        "![gap against time](../figures/efforts.png)",
        *(f"Not run: {sentence}" for sentence in result["missing"]),
        _short(result),
        table(HEAD, [row for size in result["sizes"] for row in _rows(size)]),
    ]
    return "\n\n".join(parts)


def _short(result: dict[str, Any]) -> str:
    """Count what is wanted and met, and name the rest."""
    said = [
        (f"{size['name']}, {planner['name']}", sentence)
        for size in result["sizes"]
        for planner in size["planners"]
        for sentence in _verdicts(size, planner)
    ]
    missed = [f"- {name}: wanted {sentence}." for name, sentence in said if "short" in sentence]
    lines = [f"Of {len(said)} figures wanted, {len(said) - len(missed)} are met."]
    return "\n".join([*lines, *([""] if missed else []), *missed])


def _verdicts(size: dict[str, Any], planner: dict[str, Any]) -> list[str]:
    name = planner["name"]
    said = [wanted.quality(size["name"], planner["mean"], size["bound"])] if name == JUDGED else []
    return [sentence for sentence in (*said, wanted.speed(name, planner["ratio"])) if sentence]


def _rows(size: dict[str, Any]) -> list[list[str]]:
    return [
        [
            size["name"],
            planner["name"],
            f"{planner['mean']:.5f}",
            f"{planner['least']:.5f} - {planner['most']:.5f}",
            f"{size['bound']:.5f}",
            f"{planner['gap_mean']:.5f}",
            f"{planner['gap_median']:.5f}",
            number(planner["ms"]),
            times(planner["ratio"]),
            "; ".join(_verdicts(size, planner)),
        ]
        for planner in size["planners"]
    ]
