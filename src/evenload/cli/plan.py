"""``evenload plan``: from a file of loads to a placement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import AsJson, Experts, Loads, Plot, Window


def plan(
    loads: Loads,
    gpus: Annotated[int, typer.Option(metavar="G", help="GPUs of the expert-parallel group.")],
    nodes: Annotated[
        int, typer.Option(metavar="N", help="Nodes that the GPUs are in, equally many in each.")
    ] = 1,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            help="Slots of a layer over all GPUs, a multiple of --gpus. Slots beyond the number "
            "of experts hold replicas of busy ones. Default: as few as hold every expert once.",
        ),
    ] = None,
    groups: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Groups of experts that routing keeps on one node (8 for DeepSeek-V3); respected "
            "where they divide evenly over the nodes.",
        ),
    ] = 1,
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto (the best there is for the problem), greedy (DeepSeek EPLB's own plan), "
            "iterated-greedy, local-search, or one that a plug-in adds.",
        ),
    ] = "auto",
    window: Window = None,
    experts: Experts = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the placement to a .json file."),
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Plan a placement for measured loads.

    Prints it beside the trivial placement (experts in order, as engines start).
    Without --window a trace is summed over its windows.
    """
    from evenload.cli.prepare import check_outputs, cluster_for, open_loads
    from evenload.cli.screen import draw, say, show
    from evenload.cli.timing import make_ready, timed_plan
    from evenload.formats import write_placement
    from evenload.report.compare import compare_plan, plan_lines
    from evenload.report.context import Context

    check_outputs(output, plot)
    file = open_loads(loads, window, experts)
    cluster = cluster_for(gpus, nodes, slots, file.load.shape[1])
    make_ready(file.load, cluster, groups, [solver])
    result, milliseconds = timed_plan(file.load, cluster, groups, solver)
    context = Context.of(file, cluster, groups)
    summaries = compare_plan(file.load, result, milliseconds)
    if output is not None:
        write_placement(output, result.placement, solver=result.solver, load=file.load)
        say(f"wrote the placement to {output}")
    draw(plot, context, summaries)
    show(
        context,
        summaries,
        plan_lines(summaries, result),
        as_json,
        solver=result.solver,
        reason=result.reason,
        notes=list(result.notes),
        physical_to_logical=result.placement.physical_to_logical.tolist(),
    )
