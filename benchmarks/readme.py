"""The benchmark table in the project's README."""

from typing import Any

from benchmarks.machine import sentence
from benchmarks.tables import number, table, times

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"

# Columns of balancedness, and the one of them that the times are from.
LOADS = {
    "lognormal 0.5": "lognormal 0.5",
    "lognormal 1.0": "lognormal 1.0",
    "zipf 1.0": "zipf 1.0",
    "calibrated, seed 0": "DeepSeek-V3-like",
}
TIMED = "calibrated, seed 0"


def render(section: dict[str, Any]) -> str:
    """Return the main table: time on one load, mean balancedness on four."""
    cases = {case["name"]: case for case in section["result"]["main"]}
    planners = [{p["name"]: p for p in cases[name]["planners"]} for name in LOADS]
    rows = [_row(name, planners) for name in planners[0]]
    bound = ["proven bound", *[""] * 3, *(f"{cases[name]['bound']:.4f}" for name in LOADS), "", ""]
    head = ["planner", "ms", "vs DeepSeek", "vs vLLM", *LOADS.values(), "duplicates", "moves"]
    origin = (
        f"{cases[TIMED]['size']}. Time, duplicates and moves are of the DeepSeek-V3-like load; the "
        "four columns in the middle are balancedness, mean over layers. Measured with "
        f"`{section['command']}` on {section['date']}: {sentence(section['machine'])}. "
    )
    missing = " ".join(f"Not run: {reason}" for reason in section["result"]["missing"])
    return table(head, [*rows, bound]) + "\n\n" + (origin + missing).strip()


def insert(text: str, content: str) -> str:
    """Return `text` with `content` between the two markers.

    Raises
    ------
    ValueError
        If the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"the README needs one {BEGIN} and, below it, one {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def _row(name: str, planners: list[dict[str, Any]]) -> list[str]:
    timed = planners[list(LOADS).index(TIMED)][name]
    faster = [timed["faster"].get(other) for other in ("DeepSeek EPLB", "vLLM 0.33.0")]
    return [
        name,
        number(timed["ms"]["median"]),
        *map(times, faster),
        *(f"{planner[name]['mean']:.4f}" for planner in planners),
        str(timed["duplicates"]),
        str(timed["moves"]),
    ]
