"""Replaying with a bar, and what is shown of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evenload.cli.replaying import bar
from evenload.cli.screen import busy, say

if TYPE_CHECKING:
    from evenload.cluster import Cluster
    from evenload.replay import Replay
    from evenload.trace import Trace


def ready() -> None:
    """Load all kernels, so that no policy's planning time has that in it; say how long it took."""
    started = time.perf_counter()
    with busy("loading kernels (compiling them takes a while, once)"):
        from evenload.ahead import warmup

        warmup()
    say(f"kernels ready in {time.perf_counter() - started:.2f} s")


def replay_all(
    trace: Trace, cluster: Cluster, names: list[str], how: dict[str, Any]
) -> list[Replay]:
    """Replay each policy; further arguments as `evenload.replay.replay`."""
    from evenload.replay import replay

    started = time.perf_counter()
    replays = []
    for name in names:
        with bar(name) as tell:
            replays.append(replay(trace, cluster, name, progress=tell, **how))
    windows = sum(len(r.windows) for r in replays)
    seconds = time.perf_counter() - started
    say(f"replayed {windows} windows in {seconds:.2f} s ({windows / seconds:,.0f} a second)")
    return replays


def check_replay_outputs(page: Path | None, save: Path | None) -> None:
    """Raise `ValueError` for an output that could not be written, before any work is done."""
    from evenload.report.page import check_page_path
    from evenload.report.saved import check_saved_path

    if page is not None:
        check_page_path(page)
    if save is not None:
        check_saved_path(save)


def save_all(path: Path | None, replays: list[Replay]) -> None:
    """Keep the replays, where that is wanted, and say on stderr where they are."""
    if path is None:
        return
    from evenload.report.saved import save_replays

    save_replays(path, replays)
    say(f"wrote the replays to {path}")


def write_report(path: Path | None, replays: list[Replay], trace: Trace) -> None:
    """Write the page, where one is wanted, and say on stderr where it is."""
    if path is None:
        return
    from evenload.report.page import write_page

    with busy("drawing"):
        write_page(replays, trace, path)
    say(f"wrote the report to {path}")


def show_replays(trace: Trace, replays: list[Replay], as_json: bool) -> None:
    """Print the comparison to stdout, as a table or as one JSON object."""
    if as_json:
        import evenload

        entry = {
            "evenload": evenload.__version__,
            "trace": {"source": trace.source, "shape": list(trace.shape)},
            "replays": [r.to_dict() for r in replays],
        }
        typer.echo(json.dumps(entry))
        return
    from evenload.report.compare import Context
    from evenload.report.tables import policy_lines, print_policies

    first = replays[0]
    context = Context(trace.source, trace.num_layers, trace.num_experts, first.cluster)
    windows = f"{len(first.windows)} windows of {first.window}, decisions every {first.interval}"
    rows = [r.figures() for r in replays]
    lines = [*policy_lines(rows), *(f"note: {note}" for note in first.notes)]
    print_policies(f"{context.title()}; {windows}", rows, lines, sys.stdout)
