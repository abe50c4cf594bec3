"""``evenload report``: a page and pictures of replays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import AsJson, Experts, LoadsFormat


def report(
    replays: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPLAYS", help="One or more .npz files that `replay --save` wrote."
        ),
    ],
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The trace that was replayed. Default: where it was then, as the replays say.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write a page to a .html file."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the figures as .png files into a folder, for papers."
        ),
    ] = None,
    experts: Experts = None,
    loads_format: LoadsFormat = None,
    as_json: AsJson = False,
) -> None:
    """Show replays that were saved: as a table, on a page, as pictures.

    The page is one file that opens offline, with the load of each GPU before and after, balance,
    moves and what they bring over time, balance against moves, hot experts, and the settings.
    """
    from evenload.cli.replaying import open_trace
    from evenload.cli.replays import show_replays, write_report
    from evenload.cli.screen import busy, say
    from evenload.report.page import check_figures_folder, check_page_path, write_figures
    from evenload.report.saved import load_replays

    if output is not None:
        check_page_path(output)
    if figures is not None:
        check_figures_folder(figures)
    saved = [replay for path in replays for replay in load_replays(path)]
    loads = open_trace(
        trace or _recorded(saved[0].settings.get("source", "")), experts, loads_format
    )
    write_report(output, saved, loads)
    if figures is not None:
        with busy("drawing"):
            written = write_figures(saved, loads, figures)
        say(f"wrote {len(written)} pictures to {figures}")
    show_replays(loads, saved, as_json)


def _recorded(source: str) -> Path:
    if not source:
        raise ValueError("the replays do not say where their trace was; give it with --trace")
    return Path(source)
