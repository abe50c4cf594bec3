"""``evenload demo``: what it is about, on a load like DeepSeek-V3's."""

from __future__ import annotations

from argparse import Namespace

from evenload.cli import shared

_WHAT = (
    "What you see: a synthetic load like DeepSeek-V3's (58 MoE layers of 256 experts), and how\n"
    "evenly 32 GPUs share it when experts lie in order, with DeepSeek's planner, and with ours."
)
_TIMES = "times: both planners compiled here; DeepSeek's own code makes the same plan in Python"
_NEXT = "Next: evenload plan YOUR_LOADS.npz --gpus 32 --nodes 4 --slots 288 -o placement.json"

EXAMPLES = """
Examples:
  evenload demo
  evenload demo --plot demo.png
"""

OPTIONS = {"output": shared.JSON | shared.PLOT | {"--seed N:0": "Seed of the synthetic load."}}


def run(args: Namespace) -> None:
    """See it at work on a load like DeepSeek-V3's.

    Plans 58 layers of 256 experts on 288 slots of 32 GPUs in 4 nodes, and compares the trivial
    placement (experts in order), DeepSeek's greedy planner and evenload's.
    """
    from evenload import solve
    from evenload.clock import Stopwatch
    from evenload.cluster import Cluster
    from evenload.report.compare import Context, compare_plans, plan_lines
    from evenload.synth import synthetic_load

    shared.check_outputs(None, None, args.plot)
    load = synthetic_load(58, 256, seed=args.seed)
    cluster = Cluster(32, 4, num_slots=288)
    plans = {}
    with shared.kernels(), shared.busy("planning"):
        for name, solver in (("DeepSeek's greedy", "greedy"), ("evenload", "auto")):
            with Stopwatch() as watch:
                ours = solve(load, cluster, solver=solver)
            plans[name] = ours, 1e3 * watch.seconds
    summaries = compare_plans(load, plans, split=args.split)
    for line in _WHAT.splitlines():
        shared.say(line)
    shared.show(
        args,
        Context(f"synthetic load, seed {args.seed}", 58, 256, cluster),
        summaries,
        [*plan_lines(summaries, ours), _TIMES],
        solver=ours.solver,
        reason=ours.reason,
        notes=list(ours.notes),
    )
    shared.say(_NEXT)
