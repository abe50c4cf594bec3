"""``evenload evaluate``: what a placement does with loads."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from evenload.cli.shared import (
    check_outputs,
    groups_option,
    load_options,
    open_loads,
    output_options,
    placement_format_option,
    placement_options,
    routed_experts,
    say_notes,
    show,
    split_option,
)

EXAMPLES = """
Examples:
  evenload evaluate loads.csv placement.json
  evenload evaluate trace.npz expert_map.json --gpus 16 --window -1
"""


def arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    load_options(parser)
    parser.add_argument("placement", metavar="PLACEMENT", type=Path,
        help="A file that `plan -o` wrote, or a placement of an engine, in any format that "
        "evenload reads.")  # fmt: skip
    placement = placement_options(parser)
    placement_format_option(placement, "--placement-format")
    groups_option(placement)
    split_option(output_options(parser))


def run(args: Namespace) -> None:
    """Show what a placement does with loads.

    Prints it beside the trivial placement (experts in order, as engines start). Without --window a
    trace is summed over its windows.
    """
    from evenload.formats import read_placement_file
    from evenload.report.compare import compare_file, file_lines
    from evenload.report.context import Context

    check_outputs(None, None, args.plot)
    file = open_loads(args)
    shape = {"num_gpus": args.gpus, "num_nodes": args.nodes}
    given = read_placement_file(
        args.placement, **shape, layers=file.layers, format=args.placement_format
    )
    say_notes(given.notes)
    cluster = given.placement.cluster
    topk = routed_experts(args, cluster)
    summaries = compare_file(file.load, given, num_groups=args.groups, topk=topk)
    lines = file_lines(summaries, file.load, given)
    show(args, Context.of(file, cluster, args.groups), summaries, lines, solver=given.solver)
