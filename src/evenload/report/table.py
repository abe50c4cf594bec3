"""Placements side by side, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenload.report.digits import down, percent_up, up
from evenload.report.summary import Float, Spot, Summary

_NONE = "-"


def _tokens(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.4g}"


def _cell(figure: str, *details: str) -> Text:
    return Text.assemble(figure, *(("\n" + detail, "dim") for detail in details))


def _spot(spot: Spot, relative: str) -> Text:
    where = f"layer {spot.layer}, GPU {spot.gpu}"
    return _cell(f"{relative} x mean", f"{_tokens(spot.tokens)} tokens", where)


def _worst(summary: Summary) -> Text:
    layer = summary.worst_layer
    return _cell(down(float(summary.balancedness[layer])), f"layer {layer}")


def _moves(summary: Summary) -> Text:
    moves = int(summary.moves.sum())
    return _cell(f"{moves:,}", f"{moves / summary.num_slots:.1%} of slots") if moves else Text("0")


def _optional(value: float | None, show: Callable[[float], str]) -> Text:
    return Text(_NONE if value is None else show(value))


def _mean(values: Float | None) -> float | None:
    return None if values is None else float(values.mean())


_ROWS: tuple[tuple[str, Callable[[Summary], Text]], ...] = (
    ("balancedness, mean", lambda s: Text(down(float(s.balancedness.mean())))),
    ("balancedness, worst", _worst),
    ("proven bound, mean", lambda s: _optional(_mean(s.bound), up)),
    ("gap to it, mean", lambda s: _optional(_mean(s.gap), up)),
    ("if split unevenly", lambda s: Text(down(float(s.split_balancedness.mean())))),
    ("straggler time", lambda s: Text(f"{up(s.straggler_time)} x ideal")),
    ("heaviest GPU", lambda s: _spot(s.heaviest, up(s.heaviest.relative, 4))),
    ("lightest GPU", lambda s: _spot(s.lightest, down(s.lightest.relative, 4))),
    ("away from home node", lambda s: _optional(_mean(s.away_share), percent_up)),
    ("nodes for one token", lambda s: _optional(_mean(s.nodes_per_token), lambda x: up(x, 3))),
    ("duplicates", lambda s: Text(f"{int(s.duplicates.sum()):,}")),
    ("moves from {first}", _moves),
    ("planning time", lambda s: _optional(s.milliseconds, lambda ms: f"{ms:,.2f} ms")),
)


def build_table(summaries: Sequence[Summary]) -> Table:
    """Return a table with a row a figure and a column a placement, the best one last.

    A figure that none of them has gets no row.

    Parameters
    ----------
    summaries : sequence of Summary
        At least one; the last column is the one that stands out.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for index, summary in enumerate(summaries):
        style = "bold" if index == len(summaries) - 1 else ""
        table.add_column(Text(summary.name), justify="right", style=style)
    for label, cell in _ROWS:
        cells = [cell(s) for s in summaries]
        if any(text.plain != _NONE for text in cells):
            table.add_row(Text(label.format(first=summaries[0].name)), *cells)
    return table


def print_report(
    title: str, summaries: Sequence[Summary], lines: Sequence[str], file: IO[str]
) -> None:
    """Print title, table and closing lines; coloured on a terminal only.

    Parameters
    ----------
    title : str
        What the figures are about.
    summaries : sequence of Summary
        Columns of the table.
    lines : sequence of str
        Sentences below the table.
    file : text stream
        Where to print.
    """
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print()
    console.print(build_table(summaries))
    console.print()
    for line in lines:
        console.print(Text(line), soft_wrap=True)
