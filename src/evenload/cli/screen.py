"""What goes to the terminal: the report on stdout, all other words on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from evenload.redundancy import Redundancy
    from evenload.report.compare import Context
    from evenload.report.compare import Summary


def say(line: str) -> None:
    """Print a line to stderr."""
    typer.echo(line, err=True)


def say_notes(notes: Iterable[str]) -> None:
    """Print notes to stderr, one a line."""
    for note in notes:
        say(f"note: {note}")


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner beside `what` while the block runs, where stderr is a terminal.

    Yields a function that says how far it is.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True, markup=False).status(what) as status:
        yield lambda progress: status.update(f"{what}: {progress}")


def show(
    context: Context,
    summaries: Sequence[Summary],
    lines: Sequence[str],
    as_json: bool,
    **extra: Any,
) -> None:
    """Print the report to stdout, as a table or as one JSON object.

    Parameters
    ----------
    context, summaries
        What the report is about, and its placements.
    lines : sequence of str
        Sentences below the table.
    as_json : bool
    **extra
        More entries of the JSON object, plain numbers, strings and lists.
    """
    if as_json:
        from evenload.report.compare import report_to_plain

        typer.echo(json.dumps(report_to_plain(context, summaries) | extra))
        return
    from evenload.report.tables import print_report

    print_report(context.title(), summaries, lines, sys.stdout)


def draw(path: Path | None, context: Context, summaries: Sequence[Summary]) -> None:
    """Draw the picture, where one is wanted, and say on stderr where it is."""
    if path is None:
        return
    from evenload.report.figures import draw_heatmaps, save_figure

    with busy("drawing"):
        save_figure(path, draw_heatmaps(context.title(), summaries, context.cluster.num_nodes))
    say(f"wrote the picture to {path}")


def draw_slots(path: Path | None, found: Redundancy | None) -> None:
    """Draw what each number of slots reaches, where that is wanted, and say where it is."""
    if path is None or found is None:
        return
    from evenload.report.figures import draw_slots_curve, save_figure

    with busy("drawing"):
        save_figure(path, draw_slots_curve(found))
    say(f"wrote the curve to {path}")
