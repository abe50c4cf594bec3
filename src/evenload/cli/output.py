"""What commands print and write: notes and progress on stderr, results on stdout."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.checks import printable
from evenload.cli.options import both

if TYPE_CHECKING:
    from evenload.report.compare import Context, Summary
    from evenload.trace import Trace

_TERMINAL_SECONDS, _LOG_SECONDS = 0.2, 10.0  # from one look at long work to the next


def _over(line: str) -> None:
    """Write over the last line of a terminal."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r" + printable(line)[:width].ljust(width) + "\r")
    sys.stderr.flush()


def say(line: str) -> None:
    """Print one line to stderr; what names and files have in it that does not print is escaped."""
    if sys.stderr.isatty():
        _over("")
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


_folded: ContextVar[list[str] | None] = ContextVar("folded", default=None)


def say_notes(notes: Iterable[str], *, fold: bool = True) -> None:
    """Print notes to stderr, one a line; within `folded_notes` at its end, unless not to `fold`."""
    folded = _folded.get()
    if fold and folded is not None:
        folded.extend(notes)
        return
    for note in notes:
        say(f"note: {note}")


def say_phases(phases: Iterable[str]) -> None:
    """Tell that several phases are taken together, if there are any."""
    if len(names := list(phases)) > 1:
        several = " and ".join(names)
        say_notes([f"the phases {several} are taken together; --phase {names[-1]} takes one"])


@contextmanager
def folded_notes(verbose: bool) -> Iterator[None]:
    """Print the block's notes as one line when it ends: the first, and how many more there are.

    All of them, as they come, where that is wanted.
    """
    notes: list[str] = []
    before = _folded.set(None if verbose else notes)
    try:
        yield
    finally:
        _folded.reset(before)
        more = f" (and {len(notes) - 1} more; --verbose shows all)" if len(notes) > 1 else ""
        say_notes(f"{note}{more}" for note in notes[:1])


@contextmanager
def busy(what: str) -> Iterator[Callable[..., None]]:
    """Show on stderr how far long work is: in one line on a terminal, else every ten seconds.

    Yields a function that takes a few words, or how much is done and of how much.
    """
    terminal, stop = sys.stderr.isatty(), threading.Event()
    pause, write = (_TERMINAL_SECONDS, _over) if terminal else (_LOG_SECONDS, say)
    started, words, first, due = time.monotonic(), "", None, 0.0

    def tell(done: str | int, total: int | None = None) -> None:
        nonlocal words, first, due
        words = f"{done}, " if total is None else f"{done} of {total}, "
        due, now = 0.0, time.monotonic()
        if total is None:
            return
        first = int(done) if first is None else first
        if int(done) > first:
            due = now + (now - started) * (total - int(done)) / (int(done) - first)

    def show() -> None:
        while not stop.wait(pause):
            now = time.monotonic()  # past `due` nothing is known: it waits for kernels, say
            left = f"about {due - now:.0f} s left after " if now < due else ""
            write(f"{what}: {words}{left}{now - started:.0f} s")

    clock = threading.Thread(target=show, daemon=True)
    clock.start()
    try:
        yield tell
    finally:
        stop.set()
        clock.join()
        if terminal:
            _over("")


@contextmanager
def drawing(what: str, path: Path) -> Iterator[None]:
    """Show that the block draws, and say where `what` is then."""
    with busy("drawing"):
        yield
    say(f"wrote {what} to {path}")


@contextmanager
def kernels() -> Iterator[None]:
    """Say on stderr when kernels have to be compiled, and after the block how long they took."""
    from numba.core.event import Event, Listener, install_listener

    from evenload.clock import Stopwatch

    class First(Listener):  # type: ignore[misc]
        told = False

        def on_start(self, event: Event) -> None:
            if not self.told:
                say("compiling kernels; this takes a while, once")
            self.told = True

        def on_end(self, event: Event) -> None:
            pass

    with install_listener("numba:compile", First()), Stopwatch() as watch:
        yield
    compiled = f", of which {watch.compiling:.2f} s compiling" if watch.compiling else ""
    say(f"kernels ready in {watch.kernels:.2f} s{compiled}")


def check_places(*paths: Path | None) -> None:
    """Raise `ValueError` where there is no folder for an output, before any work is done."""
    from evenload.io import check_place

    for path in paths:
        if path is not None:
            check_place(path)


def check_outputs(output: Path | None, form: str | None, *plots: Path | None) -> None:
    """Raise `ValueError` for an output that could not be written, before any work is done."""
    both(form, output, "--output-format is of --output")
    check_places(output, *plots)
    if output is not None:
        from evenload.io import find_output

        find_output(output, form)
    for plot in plots:
        if plot is not None:
            from evenload.report.figures import check_plot_path

            check_plot_path(plot)


def show(
    args: Namespace, context: Context, summaries: Sequence[Summary], lines: list[str], **extra: Any
) -> None:
    """Print a report to stdout, and draw its picture where one is wanted.

    `lines` stand below the table; `extra` are more entries of the JSON object.
    """
    if args.plot is not None:
        from evenload.report.figures import draw_heatmaps, save_figure

        with drawing("the picture", args.plot):
            nodes = context.cluster.num_nodes
            save_figure(args.plot, draw_heatmaps(context.title(), summaries, nodes))
    if args.json:
        from evenload.report.compare import report_to_plain

        print_json(report_to_plain(context, summaries) | extra)
    else:
        from evenload.report.tables import print_report

        print_report(context.title(), summaries, lines, sys.stdout)


def show_json(trace: Trace, **entries: Any) -> None:
    """Print one JSON object about a trace."""
    from evenload import __version__

    about = {"source": trace.source, "shape": list(trace.shape)}
    print_json({"evenload": __version__, "trace": about, **entries})


def print_json(entries: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    import json

    sys.stdout.write(f"{json.dumps(entries)}\n")
