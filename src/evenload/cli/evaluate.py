"""``evenload evaluate``: what a placement does with loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import (
    AsJson,
    Experts,
    Gpus,
    Loads,
    LoadsFormat,
    Nodes,
    PlacementFormat,
    Plot,
    Window,
)


def evaluate(
    loads: Loads,
    placement: Annotated[
        Path,
        typer.Argument(
            metavar="PLACEMENT",
            help="A file that `plan -o` wrote, or a placement of an engine, in any format that "
            "evenload reads.",
        ),
    ],
    placement_format: PlacementFormat = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    groups: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Groups of experts that routing sends tokens to (8 for DeepSeek-V3), to tell what "
            "is computed away from their nodes.",
        ),
    ] = 1,
    window: Window = None,
    experts: Experts = None,
    loads_format: LoadsFormat = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Show what a placement does with loads.

    Prints it beside the trivial placement (experts in order, as engines start).
    Without --window a trace is summed over its windows.
    """
    from evenload.cli.prepare import check_outputs, open_loads, routed_experts
    from evenload.cli.screen import draw, say_notes, show
    from evenload.io import read_placement_file
    from evenload.report.compare import compare_file, file_lines
    from evenload.report.compare import Context

    check_outputs(None, plot)
    file = open_loads(loads, window, experts, loads_format)
    given = read_placement_file(
        placement, num_gpus=gpus, num_nodes=nodes, layers=file.layers, format=placement_format
    )
    say_notes(given.notes)
    cluster = given.placement.cluster
    topk = routed_experts(loads, cluster, window, loads_format)
    summaries = compare_file(file.load, given, num_groups=groups, topk=topk)
    context = Context.of(file, cluster, groups)
    draw(plot, context, summaries)
    show(context, summaries, file_lines(summaries, file.load, given), as_json, solver=given.solver)
