"""``evenload size``: how many slots to buy."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.cli import shared

if TYPE_CHECKING:
    from evenload.trace import Trace

EXAMPLES = """
Examples:
  evenload size trace.npz --gpus 8 --gpus 16 --gpus 32
  evenload size trace.npz --gpus 8 --hardware h100-ib --model gpt-oss-20b --tokens-per-batch 64
"""

OPTIONS = {
    "arguments": shared.TRACE,
    "trace": shared.READING | {
        "--window N:1": "Recorded windows that are summed into one.",
    },
    "cluster": {
        "--gpus G*!": f"{shared.THE_GPUS} May be given repeatedly.",
        "--gpus-per-node N": "GPUs per node. Default: all in one.",
        "--slots S*": "Slots of a layer over all GPUs, for the numbers of GPUs that divide them. "
        "May be given repeatedly. Default: the fewest that hold every expert once, and 1, 2, 3, 4, "
        "6 and 8 more per GPU.",
        **shared.GROUPS,
    },
    "dispatch": {
        "--dispatch NAME*": "How the engine may pick replicas for tokens; the best of them is "
        "recommended. May be given repeatedly. Default: even.",
    },
    "seconds and memory": {
        "--hardware NAME": "Whose seconds and memory: h100-ib, h200-ib, h800-ib, ascend-910c, "
        "ascend-910b, l40s-pcie or h100-pcie. Without it slots are judged by tokens.",
        "--model NAME": "Whose experts, see `evenload replay --help`. Default: with --hardware, the "
        "one that has these layers and experts.",
        "--tokens-per-batch N": "Tokens that all GPUs together put through a layer at once, for "
        "seconds.",
        "--top-k K:1": "Experts that a token goes to. 1 where --tokens-per-batch counts it once for "
        "each of them.",
    },
    "search": {
        "--effort LEVEL": "How long to search: fast, standard, thorough, or a number of steps.",
        "--points N:4": "Windows of the trace's second half that plans are judged by.",
    },
    "output": shared.JSON | {
        "--plot FILE": "Draw the time of the next window against the memory, to a .png, .svg or "
        ".pdf.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Say how many slots to buy, for each number of GPUs.

    For each number of slots, plans are made from windows of the trace and judged by the window after
    them. Recommended are the fewest slots that take about the least time, and none where that saves
    too little; what slots take of the KV cache counts where --hardware and --model are known.
    """
    from evenload.report.sizes import print_sizes, sizes_entry
    from evenload.sizing import advise, clusters_to_try

    shared.check_outputs(None, None, args.plot)
    recorded = shared.open_trace(args.trace, args)
    trace = recorded.merged(args.window)
    options, source = _options(args, trace)
    check_slots(args.gpus, args.slots)
    advices = []
    with shared.kernels(), shared.busy("sizes") as say:
        for gpus in dict.fromkeys(args.gpus):
            nodes = _nodes(gpus, args.gpus_per_node)
            slots = [n for n in args.slots or [] if n % gpus == 0]
            clusters = clusters_to_try(trace.num_experts, gpus, nodes, slots=slots)
            advices.append(advise(trace, clusters, say=say, **options))
    if args.plot is not None:
        from evenload.report.figures import draw_sizes, save_figure

        with shared.drawing("the picture", args.plot):
            save_figure(args.plot, draw_sizes(advices))
    if args.json:
        shared.show_json(recorded, sizes=sizes_entry(advices))
        return
    T, L, E = trace.shape
    title = f"{Path(trace.source).name}: {T} windows, {L} layers x {E} experts"
    print_sizes(title, advices, source, sys.stdout)
