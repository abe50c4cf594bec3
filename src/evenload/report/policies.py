"""What replays came to: the figures and verdicts that console and page have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evenload.report.text import down, four_digits, percent_down, percent_up, show_seconds, up

Row = Mapping[str, Any]  # as `Replay.figures`

NONE = "-"


class Figure(NamedTuple):
    """One column of a table of policies."""

    head: str  # on the console, in lines
    about: str  # what it is, for the page
    show: Callable[[Row], str]


def total_seconds(row: Row) -> float:
    """Return what a policy took in all: what policies are compared by."""
    return float(row["total_seconds"])


def never_seconds(row: Row) -> float:
    """Return what the placement at the beginning would have taken in the same windows."""
    return total_seconds(row) + float(row["net_seconds"])


def change(seconds: float, before: float) -> str:
    """Show how much more or less time that is, a gain cut off and a loss rounded up."""
    part = seconds / before - 1.0
    if abs(part) < 5e-4:
        return "0.0%"
    return f"-{percent_down(-part)}" if part < 0.0 else f"+{percent_up(part, 1)}"


FIGURES = (
    Figure("balancedness", "Mean over heaviest GPU load, mean over windows and layers; 1 is best",
           lambda r: down(r["balancedness"], 4)),
    Figure("worst\nwindow", "The least balancedness of any window, mean over layers",
           lambda r: down(r["worst_window"], 4)),
    Figure("regret", "How much more the oracle reached, which knows every window beforehand",
           lambda r: NONE if r["regret"] is None else up(r["regret"], 4)),
    Figure("straggler\ntime\nx ideal",
           "Sum over layers of the slowest GPU's time, over that of perfect balance",
           lambda r: up(r["straggler_time"], 4)),
    Figure("rebalances", "How often experts moved", lambda r: f"{r['rebalances']:,}"),
    Figure("moves", "Experts that moved, in all layers, over the whole replay",
           lambda r: f"{r['moves']:,}"),
    Figure("slots moved\neach time", "Part of all slots that a rebalance moved, on average",
           lambda r: f"{r['moved_share']:.1%}" if r["rebalances"] else NONE),
    Figure("moved\nGB", "Weights that crossed a link",
           lambda r: four_digits(r["moved_bytes"] / 1e9)),
    Figure("s of serving\nper window", "Time of the slowest GPUs, mean over windows",
           lambda r: four_digits(r["window_seconds"])),
    Figure("standing\nstill s", "Time that serving stood still for moves",
           lambda r: four_digits(r["move_seconds"])),
    Figure("total s", "Time of the slowest GPUs, and standing still: what to compare",
           lambda r: four_digits(r["total_seconds"])),
    Figure("net s", "What that is less than keeping the starting placement would have taken",
           lambda r: four_digits(r["net_seconds"])),
    Figure("against\nnever", "The same as a part", lambda r: change(total_seconds(r),
                                                                     never_seconds(r))),
    Figure("planning\nms", "To decide, by the clock, mean of all decisions; it enters nothing else",
           lambda r: f"{r['planning_ms']:,.2f}" if r["asked"] else NONE),
)  # fmt: skip


def _named(name: str, row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the row of a policy under the dispatch of another row."""
    own = (other for other in rows if other["dispatch"] == row["dispatch"])
    names = name, f"{name} ({row['dispatch']})"
    return next((other for other in own if other["policy"] in names), None)


def _compared(seconds: float, other: float, what: str) -> str:
    part = 1.0 - seconds / other
    if abs(part) < 5e-4:
        return f"as much as {what}"
    return f"{percent_down(part)} less than {what}" if part > 0.0 else (
        f"{percent_up(-part, 1)} more than {what}"
    )  # fmt: skip


def against(row: Row, rows: Sequence[Row]) -> str:
    """Compare a policy's time with never moving, and with moving once where that was replayed."""
    told = []
    if row is not _named("never", row, rows):
        told.append(_compared(total_seconds(row), never_seconds(row), "never moving"))
    once = _named("once", row, rows)
    if once is not None and row is not once:
        told.append(_compared(total_seconds(row), total_seconds(once), "planning once"))
    return ", and ".join(told)


def warnings(rows: Sequence[Row]) -> list[str]:
    """Warn of moves that last longer than what they are for, and say what that may come from."""
    lines = [
        f"warning: {row['policy']} had moves that took longer than the whole window after them, in "
        f"{row['outlasted']} of {row['rebalances']} rebalances; a window is "
        f"{show_seconds(row['window_seconds'])} of serving here"
        for row in rows
        if row["outlasted"]
    ]
    if lines:
        lines.append(
            "  if the trace recorded a part of the traffic, say which: --recorded-share 0.01 for "
            "one token in a hundred; else sum more windows into one, by --merge"
        )
    return lines


def policy_lines(rows: Sequence[Row]) -> list[str]:
    """Return what the rows of one comparison come to: who takes least time, and what held it up."""
    best = min(rows, key=total_seconds)
    compared = against(best, rows)
    return [
        f"{best['policy']} takes the least time in all, {four_digits(total_seconds(best))} s"
        f"{f': {compared}' if compared else ''}.",
        *warnings(rows),
    ] + [
        f"note: {row['policy']} was not asked {row['put_off']} of {row['put_off'] + row['asked']} "
        "times, since experts were still on their way"
        for row in rows
        if row["put_off"]
    ]
