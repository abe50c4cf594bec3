"""``evenload evaluate``: what a placement does with loads."""

from __future__ import annotations

from argparse import Namespace

from evenload.cli import inputs, options, output

EXAMPLES = """
Examples:
  evenload evaluate loads.csv placement.json
  evenload evaluate trace.npz expert_map.json --gpus 16 --window -1
"""

OPTIONS = {
    "arguments": options.LOADS | {
        "PLACEMENT": "A file that `plan -o` wrote, or a placement of an engine, in any format that "
        "evenload reads.",
    },
    "loads": options.WINDOW | options.READING | options.ORDER,
    "what the file may leave out": options.GPUS | {
        "--placement-format NAME": options.PLACEMENT_FORMAT,
    } | options.GROUPS,
    "dispatch": options.DISPATCH | options.LIVE_SHARE,
    "seconds": options.BATCHES | options.MODEL,
    "output": options.JSON | options.PLOT,
}  # fmt: skip


def run(args: Namespace) -> None:
    """Show what a placement does with loads.

    Prints it beside the trivial placement (experts in order, as engines start). Without --window a
    trace is summed over its windows, and without --phase over its phases.
    """
    from evenload.checks import one_of
    from evenload.dispatch import DISPATCHES
    from evenload.io import read_placement_file
    from evenload.report.compare import Context, compare_file, file_lines

    one_of("--dispatch", args.dispatch, (*DISPATCHES, "one"))
    output.check_outputs(None, None, args.plot)
    file = inputs.open_loads(args)
    output.say_phases(file.phases)
    how = {"num_gpus": args.gpus, "num_nodes": args.nodes, "format": args.placement_format}
    given = read_placement_file(args.placement, layers=file.layers, **how)
    output.say_notes(given.notes)
    cluster = given.placement.cluster
    sharing = inputs.sharing(args) | inputs.batches_of(args, *file.load.shape)
    how = inputs.extras(args, cluster) | {"sharing": sharing}
    summaries = compare_file(file.load, given, **how)
    lines = file_lines(summaries, file.load, given)
    words = inputs.sharing_words(args)
    context = Context.of(file, cluster, args.groups, dispatch=words)
    output.show(args, context, summaries, lines, solver=given.solver)
