"""``evenload demo``: what it is about, on a load like DeepSeek-V3's."""

from __future__ import annotations

from typing import Annotated

import typer

from evenload.cli.options import AsJson, Plot

_WHAT = (
    "What you see: a synthetic load like DeepSeek-V3's (58 MoE layers of 256 experts), and how\n"
    "evenly 32 GPUs share it when experts lie in order, with DeepSeek's planner, and with ours."
)
_TIMES = "times: both planners compiled here; DeepSeek's own code makes the same plan in Python"
_NEXT = "Next: evenload plan YOUR_LOADS.npz --gpus 32 --nodes 4 --slots 288 -o placement.json"


def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the synthetic load.")] = 0,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """See it at work on a load like DeepSeek-V3's.

    Plans 58 layers of 256 experts on 288 slots of 32 GPUs in 4 nodes, and compares the trivial
    placement (experts in order), DeepSeek's greedy planner and evenload's.
    """
    from evenload.cli.prepare import check_outputs
    from evenload.cli.screen import draw, say, show
    from evenload.cli.timing import make_ready, timed_plan
    from evenload.cluster import Cluster
    from evenload.report.compare import compare_plans, plan_lines
    from evenload.report.compare import Context
    from evenload.synth import synthetic_load

    check_outputs(None, plot)
    load = synthetic_load(58, 256, seed=seed)
    cluster = Cluster(32, 4, num_slots=288)
    for solver in ("greedy", "auto"):
        make_ready(load, cluster, solver=solver)
    greedy = timed_plan(load, cluster, solver="greedy")
    ours = timed_plan(load, cluster, solver="auto")
    context = Context(f"synthetic load, seed {seed}", 58, 256, cluster)
    summaries = compare_plans(load, {"DeepSeek's greedy": greedy, "evenload": ours})
    say(_WHAT)
    draw(plot, context, summaries)
    show(
        context,
        summaries,
        [*plan_lines(summaries, ours[0]), _TIMES],
        as_json,
        solver=ours[0].solver,
        reason=ours[0].reason,
        notes=list(ours[0].notes),
    )
    say(_NEXT)
