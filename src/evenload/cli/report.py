"""``evenload report``: a page and pictures of replays."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.cli import inputs, options, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenload.replay import Replay
    from evenload.trace import Trace

EXAMPLES = """
Examples:
  evenload report replays.npz -o page.html --figures figures
"""

OPTIONS = {
    "arguments": {"REPLAYS*": "One or more .npz files that `replay --save` wrote."},
    "trace": {
        "--trace FILE": "The trace that was replayed. Default: where it was then, as the replays "
        "say.",
        **options.READING,
    },
    "output": options.JSON | {
        "-o, --output FILE": "Write a page to a .html file.",
        "--figures FOLDER": "Write the figures as .png files into a folder, for papers.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Show replays that were saved: as a table, on a page, as pictures.

    The page is one file that opens offline, with the load of each GPU before and after, balance,
    moves and what they bring over time, balance against moves, hot experts, and the settings.
    """
    from evenload.report.page import check_figures_folder, check_page_path, write_figures
    from evenload.report.saved import load_replays

    if args.output is not None:
        check_page_path(args.output)
    if args.figures is not None:
        check_figures_folder(args.figures)
    output.check_places(args.output)
    replays = [replay for path in args.replays for replay in load_replays(path)]
    source = args.trace or replays[0].settings.get("source")
    if not source:
        raise ValueError("the replays do not say where their trace was; give it with --trace")
    trace = inputs.open_trace(Path(source), args)
    write_page_to(args.output, replays, trace)
    if args.figures is not None:
        with output.busy("drawing"):
            written = write_figures(replays, trace, args.figures)
        output.say(f"wrote {len(written)} pictures to {args.figures}")
    show_replays(trace, replays, args.json)


def write_page_to(path: Path | None, replays: Sequence[Replay], trace: Trace) -> None:
    """Write the page of replays, where one is wanted, and say on stderr where it is."""
    if path is None:
        return
    from evenload.report.page import write_page

    with output.drawing("the report", path):
        write_page(replays, trace, path)


def show_replays(trace: Trace, replays: Sequence[Replay], as_json: bool) -> None:
    """Print a comparison of replays to stdout, as a table or as one JSON object."""
    if as_json:
        output.show_json(trace, replays=[replay.to_dict() for replay in replays])
        return
    from evenload.report.compare import Context
    from evenload.report.policies import policy_lines
    from evenload.report.tables import print_policies

    first = replays[0]
    context = Context(trace.source, trace.num_layers, trace.num_experts, first.cluster)
    windows = f"{len(first.windows)} windows of {first.merge}, decisions every {first.interval}"
    cost = first.settings["cost"]
    named = " on ".join(filter(None, (cost["model"], cost["hardware"]))) or "one's own numbers"
    by_dispatch: dict[str, list[dict[str, Any]]] = {}
    told_of: dict[str, list[str]] = {replay.dispatch: [] for replay in replays}
    for replay in replays:
        told_of[replay.dispatch] += [f"note: {line}" for line in replay.copy_advice]
        by_dispatch.setdefault(replay.dispatch, []).append(replay.figures())
    notes = [f"note: {note}" for note in first.notes]
    for number, (dispatch, rows) in enumerate(by_dispatch.items()):
        told = f"; dispatch {dispatch}" if [*by_dispatch] != ["even"] else ""
        if number:
            sys.stdout.write("\n")
        title = f"{context.title()}; {windows}; seconds of {named}{told}"
        print_policies(title, rows, [*policy_lines(rows), *told_of[dispatch], *notes], sys.stdout)
