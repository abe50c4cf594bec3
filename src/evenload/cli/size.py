"""``evenload size``: how many slots to buy."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.checks import one_of
from evenload.cli import inputs, options, output

if TYPE_CHECKING:
    from evenload.trace import Trace

EXAMPLES = """
Examples:
  evenload size trace.npz --gpus 8 --gpus 16 --gpus 32
  evenload size trace.npz --gpus 8 --hardware h100-ib --model gpt-oss-20b --tokens-per-batch 64
"""

OPTIONS = {
    "arguments": options.TRACE,
    "trace": options.READING | {
        "--merge N:1": "Recorded windows summed into one.",
    },
    "cluster": {
        "--gpus G*!": f"{options.THE_GPUS} May be given repeatedly.",
        "--gpus-per-node N": "GPUs per node. Default: all in one.",
        "--slots S*": "Slots of a layer over all GPUs, for the numbers of GPUs that divide them. "
        "May be given repeatedly. Default: the fewest that hold every expert once, and 1, 2, 3, 4, "
        "6 and 8 more per GPU.",
        **options.GROUPS,
    },
    "dispatch": {
        "--dispatch NAME*": "How the engine picks replicas for tokens: even, live, nearest, "
        "static, or one (with --tokens-per-batch). May be given repeatedly. Default: even.",
    },
    "seconds and memory": {
        "--hardware NAME": "Machine for the memory and, with --tokens-per-batch, for the "
        "seconds: h100-ib, h200-ib, h800-ib, ascend-910c, ascend-910b, l40s-pcie or h100-pcie.",
        "--model NAME": f"{options.MODEL['--model NAME']} Not needed for tokens alone.",
        **options.BATCHES,
    },
    "phases": options.PHASE_WEIGHT,
    "search": {
        "--effort LEVEL": "How long to search: fast, standard, thorough, or a number of steps. "
        "Default: fast.",
        "--points N:4": "Windows of the trace's second half that plans are judged by.",
    },
    "output": options.JSON | {
        "--plot FILE": "Draw the time of the next window against the memory, to a .png, .svg or "
        ".pdf.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Say how many slots to buy, for each number of GPUs.

    For each number of slots, plans are made from windows of the trace and judged by the window
    after them, in tokens or, with --tokens-per-batch, in seconds. It recommends the fewest slots
    that take nearly the least time, or none if they save too little. With --hardware, the KV cache
    that slots displace counts too. Phases that the file tells apart are judged together.
    """
    from evenload.dispatch import DISPATCHES
    from evenload.report.sizes import print_sizes, sizes_entry
    from evenload.sizing import advise, clusters_to_try

    output.check_outputs(None, None, args.plot)
    recorded = inputs.open_trace(args.trace, args, apart=True)
    trace = recorded.merged(args.merge)
    load = inputs.phases_of(trace)
    gpus = _gpus(args, trace.num_experts)
    asked = _options(args, trace)
    known = (*DISPATCHES, "one")
    ways = list(dict.fromkeys(one_of("--dispatch", n, known) for n in args.dispatch or ["even"]))
    advices = []
    with output.kernels(), output.busy("sizes") as say:
        for count, nodes, slots in gpus:
            clusters = clusters_to_try(trace.num_experts, count, nodes, slots=slots)
            for dispatch in ways:
                advices.append(advise(load, clusters, say=say, dispatch=dispatch, **asked))
    if args.plot is not None:
        from evenload.report.figures import draw_sizes, save_figure

        with output.drawing("the picture", args.plot):
            save_figure(args.plot, draw_sizes(advices))
    if args.json:
        output.show_json(recorded, sizes=sizes_entry(advices))
        return
    T, L, E = trace.shape
    title = f"{Path(trace.source).name}: {T} windows, {L} layers x {E} experts"
    print_sizes(title, advices, sys.stdout)


def _gpus(args: Namespace, num_experts: int) -> list[tuple[int, int, list[int]]]:
    """Return each number of GPUs with that of nodes, and the numbers of slots that it divides."""
    from evenload.checks import multiple

    found, asked = [], args.slots or []
    for gpus in dict.fromkeys(args.gpus):
        each = args.gpus_per_node or gpus
        if each < gpus:
            multiple("--gpus", gpus, "--gpus-per-node", each)
        slots = [number for number in asked if number % max(gpus, 1) == 0]
        found.append((gpus, max(gpus // each, 1), slots or asked))
    return found


def _options(args: Namespace, trace: Trace) -> dict[str, Any]:
    """Return what the options say as arguments of `advise`."""
    shape = trace.num_layers, trace.num_experts
    asked: dict[str, Any] = inputs.batches_of(args, *shape)
    asked |= {"num_groups": args.groups, "points": args.points}
    asked |= {"hardware": args.hardware, "model": inputs.model_named(args, *shape)}
    if args.phase_weight is not None:
        asked["phase_weight"] = inputs.by_phase("--phase-weight", args.phase_weight, float)
    if args.effort is not None:
        asked["effort"] = inputs.effort_of(args.effort)
    return asked
