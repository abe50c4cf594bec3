"""``evenload inspect``: what a file is, and what is odd in it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from evenload.cli import shared

EXAMPLES = """
Examples:
  evenload inspect trace.npz
  evenload inspect expert_map.json --gpus 16
"""


# fmt: off
def arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE", type=Path,
        help="Loads or a placement, in any format that evenload reads.")
    group = shared.placement_options(parser)
    group.add_argument("--experts", metavar="N", type=int,
        help="Experts per layer, if the file does not say.")
    group.add_argument("--format", metavar="NAME",
        help="The file's format. Default: told by its content.")
    shared.output_options(parser, placements=False)
# fmt: on


def run(args: Namespace) -> None:
    """Say what a file is, and what is odd in it.

    That is: loads or a placement, its shape, skew and drift. Loads are read window by window, so
    that a trace may be larger than memory.
    """
    from evenload.io import ClusterMissingError, PlacementFile, PlacementShape, read_anything
    from evenload.report.inspect import inspect_loads, inspect_placement, print_facts

    known = True
    try:
        shape = PlacementShape(args.gpus, args.nodes, args.experts)
        name, found = read_anything(args.file, shape, format=args.format)
    except ClusterMissingError:  # a placement without its number of GPUs has facts too
        shape, known = PlacementShape(1, args.nodes, args.experts), False
        name, found = read_anything(args.file, shape, format=args.format)
    if isinstance(found, PlacementFile):
        facts = inspect_placement(found, name, cluster_known=known)
    else:
        facts = inspect_loads(found, str(args.file), name)
    shared.say_notes(facts.plain["notes"])
    if args.json:
        shared.print_json(facts.plain)
    else:
        print_facts(facts, sys.stdout)
