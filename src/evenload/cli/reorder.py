"""``evenload reorder``: a checkpoint whose experts in order are a placement of one's choice."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from evenload.cli import inputs, options, output

if TYPE_CHECKING:
    from evenload.checkpoint import Checkpoint, ExpertOrder
    from evenload.io import LoadFile, PlacementFile

EXAMPLES = """
Examples:
  evenload reorder model placement.json -o reordered
  evenload reorder model --loads trace.npz --gpus 8 -o reordered
  evenload reorder reordered --undo -o model
"""

OPTIONS = {
    "arguments": {
        "CHECKPOINT": "Folder of a model: config.json and .safetensors files.",
        "PLACEMENT?": "A placement with each expert once, in any format that evenload reads. Its "
        "experts are numbered as in CHECKPOINT. Instead of --loads.",
    },
    "planning": {
        "--loads FILE": "Plan at once for these loads, without redundancy: experts are numbered as "
        "in CHECKPOINT. Any file that `evenload plan` reads.",
        "--gpus G": "GPUs of the expert-parallel group. Required with --loads.",
        "--nodes N": "For PLACEMENT: nodes of these GPUs, if the file does not say. Default: 1.",
        "--dispatch NAME:even": "even, or copy: homes for a balancer that copies experts for every "
        "microbatch, as MoonEP.",
        "--effort LEVEL": "How long to search: fast, standard, thorough.",
        "--placement-format NAME": options.PLACEMENT_FORMAT,
    },
    "loads": options.WINDOW | options.READING,
    "output": {
        "-o, --output FOLDER!": "The new folder; it must not exist yet.",
        "--undo": "Give the experts of a reordered CHECKPOINT their original numbers back.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Renumber the experts of a checkpoint, so that experts in order are a good placement.

    For engines that put experts on GPUs in order. What the model computes stays the same: an
    expert's weights, its router row and its correction bias get the same new number. The
    new folder has evenload_order.json, which tells which expert is which.

    It knows DeepSeek-V2/V3, Kimi-K2, GLM-4 MoE, Qwen2/3-MoE, OLMoE, Mixtral and gpt-oss, with their
    quantisations. If it does not know a tensor, it writes nothing.
    """
    from evenload.checkpoint import open_checkpoint, reorder_checkpoint, undo_order

    _check(args)
    checkpoint = open_checkpoint(args.checkpoint)
    if args.undo:
        with output.busy("writing MiB") as tell:
            notes = undo_order(checkpoint, args.output, tell=tell)
    else:
        order = _order(args, checkpoint)
        with output.busy("writing MiB") as tell:
            notes = reorder_checkpoint(checkpoint, order, args.output, tell=tell)
    output.say_notes(notes)
    output.say(f"wrote the checkpoint to {args.output}")


def _check(args: Namespace) -> None:
    """Raise `ValueError` unless it is said once what the order is to be."""
    asked = [bool(args.undo), args.placement is not None, args.loads is not None]
    if sum(asked) != 1:
        raise ValueError("give one of PLACEMENT, --loads and --undo: they are three ways to order")
    for given, rule in (
        (args.effort, "--effort is for --loads"),
        (args.window, "--window is for --loads"),
        (args.experts, "--experts is for --loads"),
        (args.dispatch if args.dispatch != "even" else None, "--dispatch is for --loads"),
    ):
        options.both(given, args.loads, rule)
    options.both(args.placement_format, args.placement, "--placement-format is of PLACEMENT")
    options.both(args.nodes, args.placement, "--nodes is of PLACEMENT")
    options.both(args.loads, args.gpus, "--loads are planned for the --gpus")


def _order(args: Namespace, checkpoint: Checkpoint) -> ExpertOrder:
    """Return the order that PLACEMENT or --loads ask for."""
    from evenload.checkpoint import order_of_placement
    from evenload.io import PlacementFile, load_digest, read_placement_file

    if args.placement is not None:
        shape = {"num_gpus": args.gpus, "num_nodes": args.nodes}
        shape["num_experts"] = checkpoint.model.num_experts
        how = shape | {"agree": False, "format": args.placement_format}
        file = read_placement_file(args.placement, **how)
        output.say_notes(file.notes)
        return order_of_placement(file, checkpoint)
    from evenload.checkpoint import plan_order

    loads, groups = inputs.open_loads(args), checkpoint.model.num_groups
    load = loads.load if args.window is not None or loads.trace is None else loads.trace
    how = {"num_groups": groups, "dispatch": args.dispatch}
    if args.effort is not None:
        how["effort"] = args.effort
    with output.kernels(), output.busy("planning"):
        placement = plan_order(load, args.gpus, **how)
    digest = load_digest(loads.load)
    file = PlacementFile(placement, "reordered", None, digest, loads.layers)
    order = order_of_placement(file, checkpoint)
    _print(loads, file, groups)
    return order


def _print(loads: LoadFile, file: PlacementFile, groups: int) -> None:
    """Print what the order does to the loads that it was planned for, beside the first order."""
    from evenload.checkpoint.planned import over_windows
    from evenload.report.compare import Context, compare_file
    from evenload.report.tables import print_report

    lines = []
    if loads.trace is not None and loads.window is None:
        before, after = over_windows(loads.trace, file.placement)
        lines.append(
            f"balancedness of single windows, on average: {before:.4f} before, {after:.4f} after"
        )
    context = Context.of(loads, file.placement.cluster, groups)
    print_report(context.title(), compare_file(loads.load, file), lines, sys.stdout)
