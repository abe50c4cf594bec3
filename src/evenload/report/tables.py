"""Tables on the console: placements side by side, policies side by side."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

from evenload.checks import printable
from evenload.report.policies import FIGURES, against, total_seconds, warnings
from evenload.report.text import down, four_digits, percent_up, show_seconds, up

if TYPE_CHECKING:
    from evenload.report.compare import Float, Spot, Summary

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]

_NONE = "-"
_GAP = "   "  # between columns
_HEAD = 24  # characters of a placement's name side by side
_LEAST = 8  # characters that folding leaves a column
BOLD, DIM = "1", "2"


def _wide(text: str) -> int:
    """Return how many places of a terminal a line takes."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _widths(rows: Iterable[Sequence[str]]) -> list[int]:
    columns = zip(*rows, strict=True)
    return [max(_wide(line) for cell in of for line in cell.split("\n")) for of in columns]


def _table_width(rows: Iterable[Sequence[str]]) -> int:
    widths = _widths(rows)
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def print_table(
    title: str,
    heads: Sequence[str] | None,
    rows: Sequence[Sequence[str]],
    lines: Iterable[str | tuple[str, str]],
    file: IO[str],
    *,
    left: int = 1,
    bold: int | None = None,
    fold: int | None = None,
) -> None:
    """Print title, table and closing lines; bold and dim on a terminal only.

    A head or cell may have several lines; in columns on the right, those after the first are
    details. A closing line may be a pair with its style.

    Parameters
    ----------
    left : int
        How many columns are on the left; numbers are on the right.
    bold, fold : int, optional
        The column that stands out, and the one whose cells are broken into lines where the table is
        wider than the terminal.
    """
    wanted = file.isatty() or os.environ.get("FORCE_COLOR")
    plain = not wanted or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"

    def styled(text: str, *codes: str) -> str:
        style = ";".join(filter(None, codes))
        return text if plain or not (style and text) else f"\x1b[{style}m{text}\x1b[0m"

    closing = [line if isinstance(line, tuple) else (line, "") for line in lines]
    # Names come from files: nothing in them may reach the terminal raw.
    table = [["\n".join(map(printable, c.split("\n"))) for c in cells]
             for cells in ([heads, *rows] if heads else rows)]  # fmt: skip
    over = _table_width(table) - shutil.get_terminal_size().columns
    if fold is not None and over > 0:
        room = max(_LEAST, _widths(table)[fold] - over)
        table = [
            ["\n".join(textwrap.wrap(c, room)) if i == fold else c for i, c in enumerate(cells)]
            for cells in table
        ]
    widths = _widths(table)
    print(styled(printable(title), BOLD), end="\n\n", file=file)
    for number, cells in enumerate(table):
        head, parts = number == 0 and bool(heads), [cell.split("\n") for cell in cells]
        if head:  # heads end on one line
            height = max(map(len, parts))
            parts = [[""] * (height - len(part)) + part for part in parts]
        for n, texts in enumerate(zip_longest(*parts, fillvalue="")):
            shown = []
            for i, text in enumerate(texts):
                detail = DIM if n > 0 and i >= left and not head else ""
                cell = styled(text, BOLD if head or i == bold else "", detail)
                space = " " * (widths[i] - _wide(text))
                shown.append(cell + space if i < left else space + cell)
            print(_GAP.join(shown).rstrip(), file=file)
        if head:
            encoding = getattr(file, "encoding", None) or "utf-8"
            rule = "─" if encoding.lower().startswith("utf") else "-"
            print(rule * _table_width(table), file=file)
    print(file=file)
    for text, code in closing:
        print(styled(printable(text), code), file=file)


# ---- placements ------------------------------------------------------------------------------


def _spot(spot: Spot, relative: str) -> str:
    few = spot.tokens < 100 and spot.tokens != int(spot.tokens)
    tokens = f"{spot.tokens:.4g}" if few else f"{spot.tokens:,.0f}"
    return f"{relative} x mean\n{tokens} tokens\nlayer {spot.layer}, GPU {spot.gpu}"


def _moves(summary: Summary) -> str:
    moves, slots = int(summary.moves.sum()), summary.placement.physical_to_logical.size
    return f"{moves:,}\n{moves / slots:.1%} of slots" if moves else "0"


def _mean(values: Float | None, show: Callable[[float], str]) -> str:
    return _NONE if values is None else show(float(values.mean()))


def _precise(seconds: float) -> str:
    return show_seconds(seconds, 4)


_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("balancedness, mean", lambda s: _mean(s.balancedness, down)),
    ("balancedness, worst", lambda s: f"{down(s.balancedness.min())}\nlayer {s.worst_layer}"),
    ("bound, mean", lambda s: _mean(s.bound, up)),
    ("gap, mean", lambda s: _mean(s.gap, up)),
    ("seconds per batch, mean", lambda s: _mean(s.seconds, _precise)),
    ("their bound, mean", lambda s: _mean(s.seconds_bound, _precise)),
    ("active experts, mean", lambda s: _mean(s.active, up)),
    ("their bound, mean", lambda s: _mean(s.active_bound, up)),
    ("straggler time", lambda s: f"{up(s.straggler_time)} x ideal"),
    ("heaviest GPU", lambda s: _spot(s.heaviest, up(s.heaviest.relative, 4))),
    ("lightest GPU", lambda s: _spot(s.lightest, down(s.lightest.relative, 4))),
    ("away from home", lambda s: _mean(s.away_share, percent_up)),
    ("nodes per token", lambda s: _mean(s.nodes_per_token, lambda x: up(x, 3))),
    ("duplicates", lambda s: f"{int(s.duplicates.sum()):,}"),
    ("moves from {first}", _moves),
    ("planning time", lambda s: _NONE if s.milliseconds is None else f"{s.milliseconds:,.2f} ms"),
)


def print_report(
    title: str, summaries: Sequence[Summary], lines: Sequence[str], file: IO[str]
) -> None:
    """Print a table with a row a figure and a column a placement; coloured on a terminal only.

    A figure that none of them has gets no row; the last of one or more columns stands out. `title`
    says what the figures are about, and `lines` are sentences below the table.
    """
    heads, rows = report_rows(summaries)
    print_table(title, heads, rows, lines, file, bold=len(summaries))


def report_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Return the heads, the first of which is empty, and rows of `print_report`."""
    heads = ["\n".join(textwrap.wrap(summary.name, _HEAD)) for summary in summaries]
    rows = []
    for label, cell in _ROWS:
        cells = [cell(summary) for summary in summaries]
        if any(text != _NONE for text in cells):
            rows.append([label.format(first=summaries[0].name), *cells])
    return ["", *heads], rows


# ---- policies --------------------------------------------------------------------------------

_CELLS = [
    ("GPUs", itemgetter("num_gpus")),
    ("slots", itemgetter("num_slots")),
    ("merge", itemgetter("merge")),
    ("interval", itemgetter("interval")),
]
# What a narrow terminal has no room for, the first to go first.
_SPARED = ("planning\nms", "slots moved\neach time", "moved\nGB", "worst\nwindow",
           "standing\nstill s", "rebalances", "merge", "interval", "regret",
           "straggler\ntime\nx ideal", "net s", "s of serving\nper window", "moves")  # fmt: skip


def print_policies(
    title: str, rows: Sequence[Row], lines: Sequence[str], file: IO[str], *, cells: bool = False
) -> None:
    """Print a table with a row a replay; coloured on a terminal only.

    Columns that a terminal has no room for are left out and named; a file or pipe gets all. Rows
    are as `Replay.figures`; with `cells`, which shows what sets those of a sweep apart, as `sweep`
    returns them. `lines` are sentences below the table.
    """
    columns: list[Column] = [
        ("policy", itemgetter("policy")),
        *(_CELLS if cells else ()),
        *([("dispatch", itemgetter("dispatch"))] if cells and not _all_even(rows) else ()),
        *((figure.head, figure.show) for figure in FIGURES),
    ]

    def table() -> list[list[str]]:
        heads = [head for head, _ in columns]
        return [heads, *([str(cell(row)) for _, cell in columns] for row in rows)]

    gone = []
    for head in _SPARED if file.isatty() else ():
        if _table_width(table()) <= shutil.get_terminal_size().columns:
            break
        gone += [head.replace("\n", " ") for other, _ in columns if other == head]
        columns = [column for column in columns if column[0] != head]
    left_out = [(f"no room here for: {', '.join(gone)}; --json has all", DIM)] if gone else []
    heads, *shown = table()
    fold = 0 if file.isatty() else None
    print_table(title, heads, shown, [*left_out, *lines], file, fold=fold)


def _all_even(rows: Sequence[Row]) -> bool:
    return all(row["dispatch"] == "even" for row in rows)


def sweep_lines(rows: Sequence[Row]) -> list[str]:
    """Say for each number of GPUs, and dispatch, what took the least time."""
    lines = []
    alike, told = itemgetter("num_gpus", "dispatch"), not _all_even(rows)
    for gpus, dispatch in dict.fromkeys(map(alike, rows)):
        own = [row for row in rows if alike(row) == (gpus, dispatch)]
        least = min(own, key=total_seconds)
        cell = itemgetter("num_slots", "merge", "interval")
        compared = against(least, [row for row in own if cell(row) == cell(least)])
        lines.append(
            f"{gpus} GPUs{f', dispatch {dispatch}' if told else ''}: {least['policy']} on "
            f"{least['num_slots']} slots takes the least time in all, "
            f"{four_digits(total_seconds(least))} s{f', {compared}' if compared else ''}."
        )
    return lines + warnings(rows)
