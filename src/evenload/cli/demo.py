"""``evenload demo``: traffic drifts, and planners follow."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from evenload.cli import options, output

if TYPE_CHECKING:
    from evenload.report.courses import Panel
    from evenload.trace import Trace

_WINDOWS, _LAYERS, _EXPERTS = 10, 8, 256
_TOKENS = 2**26  # of a layer in a window: 8.4 million that go to 8 experts each
_TOPIC = 4  # windows of a topic, on average
_CLUSTERS = ((32, 4, 9), (128, 16, 3))  # GPUs, nodes, slots per GPU

_ABOUT = (
    f"Made-up traffic for {_LAYERS} MoE layers of {_EXPERTS} experts, as popular as DeepSeek-V3's "
    f"were measured to be; the topic changes every {_TOPIC} windows or so. Seconds are estimated "
    "(`evenload.CostModel`, H100s with InfiniBand): computing the experts, and waiting for moves. "
    "No GPU is used."
)
_NEXT = (
    "evenload replay {} --gpus 32 --nodes 4 --slots 288 --hardware h100-ib --model deepseek-v3; or "
    "a trace of your own"
)

EXAMPLES = """
Examples:
  evenload demo
  evenload demo --plot demo.png
"""

OPTIONS = {
    "output": options.JSON | {
        "--plot FILE": "Draw balance, moves and lost time to a .png, .svg or .pdf.",
        "--save-trace FILE": "Write the made-up traffic to a .npz file, to try other commands on.",
        "--seed N:0": "Seed of the made-up traffic.",
    }
}  # fmt: skip


def run(args: Namespace) -> None:
    """See what planners reach while traffic drifts, and what their moves cost.

    Replays ten windows on 32 GPUs with 9 slots each, and on 128 GPUs with 3: experts never moved,
    DeepSeek's planner, and evenload, the last two also with a live split of each batch's tokens.
    """
    from evenload import __version__
    from evenload.cli.report import show_replays
    from evenload.report.courses import course_lines, draw_courses

    output.check_outputs(None, None, args.plot)
    output.check_places(args.save_trace)
    if not args.json:
        output.say(_ABOUT)
    trace = made_up(args.seed)
    if args.save_trace is not None:
        from evenload.io import write_load

        write_load(args.save_trace, trace)
        output.say(f"wrote the traffic to {args.save_trace}")
    with output.kernels():
        panels = followed(trace)
    if args.plot is not None:
        from evenload.report.figures import save_figure

        with output.drawing("the picture", args.plot):
            save_figure(args.plot, draw_courses(panels))
    if args.json:
        told = {panel.title: [of.to_dict() for of in panel.replays.values()] for panel in panels}
        output.print_json({"evenload": __version__, "seed": args.seed, "replays": told})
        return
    for panel in panels if args.verbose else ():
        show_replays(trace, list(panel.replays.values()), as_json=False)
        sys.stdout.write("\n")
    for line in course_lines(panels):
        sys.stdout.write(f"{line}\n")
    saved = shlex.quote(str(args.save_trace or "demo.npz"))
    first = "" if args.save_trace is not None else f"evenload demo --save-trace {saved}, then "
    output.say(f"Next: {first}{_NEXT.format(saved)}")


def made_up(seed: int) -> Trace:
    """Return the traffic that the demo replays: a window to plan for, and those that follow."""
    from evenload.synth import synthetic_trace
    from evenload.trace import Trace

    how = {"topic_windows": _TOPIC, "tokens": _TOKENS, "seed": seed}
    load = synthetic_trace(1 + _WINDOWS, _LAYERS, _EXPERTS, **how)
    return Trace(load, source=f"made-up traffic, seed {seed}")


def followed(trace: Trace) -> tuple[Panel, Panel]:
    """Replay the traffic under every policy on both clusters."""
    from evenload.cluster import Cluster
    from evenload.cost import CostModel
    from evenload.replay import replay
    from evenload.report.courses import POLICIES, Panel

    cost = CostModel.preset("h100-ib", "deepseek-v3")
    each, total = trace.num_windows - 1, (trace.num_windows - 1) * len(POLICIES) * len(_CLUSTERS)
    panels, done = [], 0
    with output.busy("replaying") as tell:
        for gpus, nodes, slots in _CLUSTERS:
            cluster, replays = Cluster(gpus, nodes, slots), {}
            for name, (policy, dispatch) in POLICIES.items():

                def progress(now: int, _: int, before: int = done) -> None:
                    tell(before + now, total)

                how: dict[str, Any] = {
                    "dispatch": dispatch,
                    "progress": progress,
                    "keep_placements": False,
                }
                replays[name] = replay(trace, cluster, policy, cost=cost, oracle=None, **how)
                done += each
            panels.append(Panel(cluster, replays))
    return panels[0], panels[1]
