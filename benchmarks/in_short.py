"""The main table in a few lines: the range over all loads without groups."""

from collections.abc import Sequence
from typing import Any

from benchmarks.tables import table, times


def render(cases: list[dict[str, Any]], references: Sequence[str]) -> str:
    """Return a Markdown table with a row a planner: how much faster, how balanced, how wasteful."""
    head = [
        "planner",
        *(f"faster than {name}" for name in references),
        "balancedness, mean",
        "worst layer",
        "duplicates",
    ]
    names = [planner["name"] for planner in cases[0]["planners"]]
    return table(head, [_row(name, cases, references) for name in names])


def _row(name: str, cases: list[dict[str, Any]], references: Sequence[str]) -> list[str]:
    planners = [p for case in cases for p in case["planners"] if p["name"] == name]
    duplicates = [p["duplicates"] for p in planners]
    return [
        name,
        *(_faster([p["faster"].get(other) for p in planners]) for other in references),
        f"{min(p['mean'] for p in planners):.4f} - {max(p['mean'] for p in planners):.4f}",
        f"{min(p['worst'] for p in planners):.4f}",
        f"{min(duplicates)} - {max(duplicates)}",
    ]


def _faster(ratios: list[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{times(min(known))} - {times(max(known))}" if known else "-"
