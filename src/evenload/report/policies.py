"""Policies side by side, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from evenload.report.digits import down, percent_down, up

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

WITHIN = 0.01


def _seconds(value: float) -> str:
    return f"{value:.4g}"


def _share(row: Row) -> str:
    return f"{row['moved_share']:.1%}" if row["rebalances"] else "-"


def _optional(name: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    return lambda row: "-" if row[name] is None else show(row[name])


FIGURES: tuple[Column, ...] = (
    ("balancedness", lambda r: down(r["balancedness"], 4)),
    ("regret", _optional("regret", lambda x: up(x, 4))),
    ("straggler\nx ideal", lambda r: up(r["straggler_time"], 4)),
    ("rebalances", lambda r: f"{r['rebalances']}"),
    ("paid", lambda r: f"{r['paid']}" if r["rebalances"] else "-"),
    ("moves", lambda r: f"{r['moves']:,}"),
    ("of slots\neach", _share),
    ("moved\nGB", lambda r: f"{r['bytes'] / 1e9:,.4g}"),
    ("standing\nstill s", lambda r: _seconds(r["move_seconds"])),
    ("total s", lambda r: _seconds(r["total_seconds"])),
    ("planning\nms", lambda r: f"{r['plan_ms']:,.2f}" if r["asked"] else "-"),
)
CELLS: tuple[Column, ...] = tuple(
    (name, lambda r, name=name: f"{r[name]}")  # type: ignore[misc]
    for name in ("gpus", "slots", "window", "interval")
)
# What a narrow terminal has no room for, the first to go first.
SPARED = ("planning\nms", "of slots\neach", "moved\nGB", "standing\nstill s", "paid", "rebalances",
          "window", "interval", "regret", "straggler\nx ideal")  # fmt: skip


def build_policies(rows: Sequence[Row], columns: Sequence[Column] = FIGURES) -> Table:
    """Return a table with a row a replay.

    Parameters
    ----------
    rows : sequence of dict
        As `Replay.figures`.
    columns : sequence of (head, callable)
        What stands behind the policy's name.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("policy", vertical="bottom", overflow="fold")
    for head, _ in columns:
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(Text(row["policy"]), *(Text(cell(row)) for _, cell in columns))
    return table


def print_policies(
    title: str, rows: Sequence[Row], lines: Sequence[str], file: IO[str], *, cells: bool = False
) -> None:
    """Print title, table and closing lines; coloured on a terminal only.

    Parameters
    ----------
    title : str
    rows : sequence of dict
        As `Replay.figures`; with `cells` as `evenload.replay.sweep` returns them.
    lines : sequence of str
        Sentences below the table.
    file : text stream
    cells : bool
        Show what sets the cells of a sweep apart.
    """
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    columns = [*CELLS, *FIGURES] if cells else list(FIGURES)
    left_out = _fit(console, rows, columns)
    table = build_policies(rows, columns)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print()
    console.print(table)
    console.print()
    if left_out:
        what = ", ".join(head.replace("\n", " ") for head in left_out)
        console.print(
            Text(f"no room here for: {what}; --json has all", style="dim"), soft_wrap=True
        )
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _fit(console: Console, rows: Sequence[Row], columns: list[Column]) -> list[str]:
    """Take out columns until a terminal has room, and name them; a file or pipe gets all."""

    def wanted() -> int:
        table = build_policies(rows, columns)
        return Measurement.get(console, console.options.update(width=1000), table).maximum

    left_out = []
    for head in SPARED if console.is_terminal else ():
        if wanted() <= console.width:
            break
        kept = [column for column in columns if column[0] != head]
        left_out += [head] * (len(kept) < len(columns))
        columns[:] = kept
    console.width = max(console.width, wanted()) if not console.is_terminal else console.width
    return left_out


def policy_lines(rows: Sequence[Row]) -> list[str]:
    """Return what the rows of one comparison come to: who takes least time, and what held it up."""
    best = min(rows, key=lambda r: float(r["total_seconds"]))
    lines = [
        f"{best['policy']} takes the least time in all, {_seconds(best['total_seconds'])} s "
        "(straggler time, and serving standing still for moves)."
    ]
    stay = next((r for r in rows if r["policy"] == "never"), None)
    if stay is not None and stay is not best:
        less = 1.0 - best["total_seconds"] / stay["total_seconds"]
        lines[0] = f"{lines[0][:-1]}; {percent_down(less)} less than never moving."
    for row in rows:
        if row["put_off"]:
            lines.append(
                f"note: {row['policy']} was not asked {row['put_off']} of "
                f"{row['put_off'] + row['asked']} times, since experts were still on their way"
            )
    return lines


def enough_slots(rows: Sequence[Row]) -> list[str]:
    """Say for each number of GPUs how many slots are enough: the answer that a sweep is for."""
    lines = []
    for gpus in dict.fromkeys(row["gpus"] for row in rows):
        best: dict[int, Row] = {}
        for row in (r for r in rows if r["gpus"] == gpus):
            known = best.get(row["slots"])
            if known is None or row["total_seconds"] < known["total_seconds"]:
                best[row["slots"]] = row
        least = min(best.values(), key=lambda r: float(r["total_seconds"]))
        limit = (1.0 + WITHIN) * least["total_seconds"]
        enough = next(best[s] for s in sorted(best) if best[s]["total_seconds"] <= limit)
        line = (
            f"{gpus} GPUs: {least['slots']} slots with {least['policy']} take the least time in "
            f"all, {_seconds(least['total_seconds'])} s"
        )
        if enough is not least:
            line += f"; {enough['slots']} with {enough['policy']} come within {WITHIN:.0%} of it"
        lines.append(f"{line}.")
    return lines
