"""``evenload inspect``: what a file is, and what is odd in it."""

from __future__ import annotations

import sys
from argparse import Namespace

from evenload.cli import inputs, options, output

EXAMPLES = """
Examples:
  evenload inspect trace.npz
  evenload inspect expert_map.json --gpus 16
"""

OPTIONS = {
    "arguments": {
        "FILE": "Loads or a placement, in any format that evenload reads; or evenload_order.json, "
        "or the folder of a reordered checkpoint.",
    },
    "what the file may leave out": options.GPUS | {
        "--experts N": "Experts per layer, if the file does not say.",
        "--format NAME": "The file's format. Default: told by its content.",
        **options.LAYOUT,
    },
    "reading": options.PHASE | options.MAX_BYTES,
    "output": options.JSON,
}  # fmt: skip


def run(args: Namespace) -> None:
    """Say what a file is, and what is odd in it.

    That is: loads, a placement or an order of experts, its shape, skew and drift. Loads are read
    window by window, so that a trace may be larger than memory.
    """
    from evenload.checkpoint.order import is_order, read_order
    from evenload.io import ClusterMissingError, PlacementFile, PlacementShape, read_anything
    from evenload.report.inspect import (
        Facts,
        inspect_loads,
        inspect_order,
        inspect_placement,
        print_facts,
    )

    def show(facts: Facts) -> None:
        if args.json:
            output.print_json(facts.plain)
        else:
            print_facts(facts, sys.stdout)

    if args.format is None and is_order(args.file):
        show(inspect_order(read_order(args.file), str(args.file)))
        return
    known, layout = True, inputs.layout_of(args)
    try:
        shape = PlacementShape(args.gpus, args.nodes, args.experts)
        name, found = read_anything(args.file, shape, format=args.format, **layout)
    except ClusterMissingError:  # a placement without its number of GPUs has facts too
        shape, known = PlacementShape(1, args.nodes, args.experts), False
        name, found = read_anything(args.file, shape, format=args.format, **layout)
    found = inputs.of_phase(found, args)
    if isinstance(found, PlacementFile):
        facts = inspect_placement(found, name, cluster_known=known)
    else:
        facts = inspect_loads(found, str(args.file), name)
        output.say_phases(found.phases)
    output.say_notes(facts.plain["notes"], fold=False)
    show(facts)
