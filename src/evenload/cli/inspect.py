"""``evenload inspect``: what a file is, and what is odd in it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evenload.cli import shared

if TYPE_CHECKING:
    from evenload.report.inspect import Facts

EXAMPLES = """
Examples:
  evenload inspect trace.npz
  evenload inspect expert_map.json --gpus 16
"""


def arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE", type=Path,
        help="Loads or a placement, in any format that evenload reads.")  # fmt: skip
    group = shared.placement_options(parser)
    group.add_argument(
        "--experts", metavar="N", type=int, help="Experts per layer, if the file does not say."
    )
    group.add_argument(
        "--format", metavar="NAME", help="The file's format. Default: told by its content."
    )
    shared.output_options(parser, placements=False)


def run(args: Namespace) -> None:
    """Say what a file is, and what is odd in it.

    That is: loads or a placement, its shape, skew and drift. Loads are read window by window, so
    that a trace may be larger than memory.
    """
    from evenload.report.inspect import print_facts

    facts = _facts(args)
    shared.say_notes(facts.plain["notes"])
    if args.json:
        shared.print_json(facts.plain)
    else:
        print_facts(facts, sys.stdout)


def _facts(args: Namespace) -> Facts:
    """Read the file and say what it is; a placement may be without its number of GPUs."""
    from evenload.io import ClusterMissingError, PlacementShape, read_anything
    from evenload.report.inspect import inspect_loads, inspect_placement

    known, shape = True, PlacementShape(args.gpus, args.nodes, args.experts)
    try:
        found = read_anything(args.file, shape, format=args.format)
    except ClusterMissingError:
        known = False
        found = read_anything(args.file, replace(shape, num_gpus=1), format=args.format)
    if found.loads is not None:
        return inspect_loads(found.loads, str(args.file), found.format.name)
    assert found.placement is not None
    return inspect_placement(found.placement, found.format.name, cluster_known=known)
