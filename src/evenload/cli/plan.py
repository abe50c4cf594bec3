"""``evenload plan``: from a file of loads to a placement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import (
    AsJson,
    Experts,
    GroupGpus,
    GroupNodes,
    Loads,
    LoadsFormat,
    OutputFormat,
    PlacementFormat,
    Plot,
    Window,
)


def plan(
    loads: Loads,
    gpus: GroupGpus,
    nodes: GroupNodes = 1,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            help="Slots of a layer over all GPUs; where they do not divide, the first GPUs have "
            "one more. Slots beyond the number of experts hold replicas of busy ones. Default: as "
            "few as hold every expert once.",
        ),
    ] = None,
    redundant: Annotated[
        str | None,
        typer.Option(
            metavar="R|auto",
            help="Instead of --slots: slots beyond one for each expert. auto finds the fewest, "
            "equally many on each GPU, that reach the --target.",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="B",
            help="Balancedness, mean over layers, for --redundant auto to reach. Default: 0.99.",
        ),
    ] = None,
    groups: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Groups of experts that routing keeps on one node (8 for DeepSeek-V3); see "
            "--topology.",
        ),
    ] = 1,
    topology: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="strict (all of a group on one node), prefer (one replica of each on its group's "
            "node, others where they pay), or ignore. Default: strict where the groups divide "
            "evenly over the nodes, else ignore.",
        ),
    ] = None,
    cross_node_price: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="For --topology prefer: what a token costs that is computed away from its "
            "group's node, in tokens computed by a GPU. Default: 1.",
        ),
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Speed of each GPU, where they differ: e.g. 1,1,2,2."),
    ] = None,
    dead: Annotated[
        list[int] | None,
        typer.Option(metavar="GPU", help="Number of a GPU that is gone; may be given repeatedly."),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto (the best there is for the problem), greedy (DeepSeek EPLB's own plan), "
            "iterated-greedy, local-search, joint, exact (small layers), or one that a plug-in "
            "adds.",
        ),
    ] = "auto",
    effort: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="How long to search, for the solvers auto, joint and exact: fast, standard, "
            "thorough, or a number of steps.",
        ),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Placement that runs now: the plan moves few experts from it, see --move-cost and "
            "--max-moves.",
        ),
    ] = None,
    current_format: PlacementFormat = None,
    move_cost: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="With --current: what each move has to gain in its layer, in balancedness. "
            "Default: 0.1 over the slots of a layer.",
        ),
    ] = None,
    max_moves: Annotated[
        int | None,
        typer.Option(
            metavar="M", help="With --current: experts of each layer that may move at most."
        ),
    ] = None,
    next_window: Annotated[
        bool,
        typer.Option(
            "--next",
            help="Plan a trace for the window after it: for a forecast, and so that it holds under "
            "the last windows.",
        ),
    ] = False,
    window: Window = None,
    experts: Experts = None,
    loads_format: LoadsFormat = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the placement to a file: .json or .npz (evenload's own), .pt (SGLang), "
            ".yaml (TensorRT-LLM), or what --output-format says.",
        ),
    ] = None,
    output_format: OutputFormat = None,
    plot: Plot = None,
    curve: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw what each number of slots reaches that --redundant auto tried, to a .png, "
            ".svg or .pdf.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan a placement for measured loads.

    Prints it beside the trivial placement (experts in order, as engines start), or beside
    the --current one. Without --window or --next a trace is summed over its windows.
    """
    from evenload.cli.planning import (
        Wanted,
        effort_option,
        moves_options,
        plan_wanted,
        price_option,
    )
    from evenload.cli.prepare import (
        check_outputs,
        open_loads,
        open_placement,
        routed_experts,
        windows_of,
    )
    from evenload.cli.screen import draw, draw_slots, say, say_notes, show
    from evenload.io import write_placement
    from evenload.report.compare import compare_plan, plan_lines
    from evenload.report.compare import Context
    from evenload.report.tables import slots_entry, slots_lines

    how = {
        "num_groups": groups,
        "topology": topology,
        "solver": solver,
        **price_option(cross_node_price, topology),
        **effort_option(effort),
        **moves_options(current, move_cost, max_moves),
    }
    wanted = Wanted(gpus, nodes, slots, redundant, target, speed, dead, how)
    wanted.check(curve, next_window)
    check_outputs(output, plot, curve, output_format=output_format)
    file = open_loads(loads, window, experts, loads_format)
    running = open_placement(
        "--current", current, current_format, gpus, nodes, file.load.shape[1], file.layers
    )
    if running is not None:
        how["current"] = running
    tokens = windows_of(file, window) if next_window else file.load
    result, milliseconds, found = plan_wanted(tokens, wanted)
    expected = result.problem.load if next_window else file.load
    context = Context.of(file, result.placement.cluster, groups, forecast=next_window)
    topk = routed_experts(loads, result.placement.cluster, window, loads_format)
    summaries = compare_plan(expected, result, milliseconds, num_groups=groups, topk=topk)
    if output is not None:
        left_out = write_placement(
            output,
            result.placement,
            solver=result.solver,
            load=expected,
            layers=file.layers,
            format=output_format,
        )
        say_notes(left_out)
        say(f"wrote the placement to {output}")
    draw(plot, context, summaries)
    draw_slots(curve, found)
    show(
        context,
        summaries,
        [*plan_lines(summaries, result), *slots_lines(found)],
        as_json,
        solver=result.solver,
        reason=result.reason,
        notes=list(result.notes),
        physical_to_logical=result.placement.physical_to_logical.tolist(),
        **slots_entry(found),
    )
