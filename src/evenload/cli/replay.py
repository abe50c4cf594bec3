"""``evenload replay``: policies compared on a trace."""

from __future__ import annotations

import itertools
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from evenload.cli import inputs, options, output
from evenload.cli.report import show_replays, write_page_to

if TYPE_CHECKING:
    from evenload.trace import Trace

EXAMPLES = """
Examples:
  evenload replay trace.npz --gpus 8 --slots 40 --hardware h100-ib --merge 2
  evenload replay trace.npz --gpus 8 --slots 40 --hardware h100-ib --policy every-4:joint
"""

DEFAULT_POLICIES = ["never", "once", "deepseek", "evenload"]

# What `replay` and `sweep` have in common.
REPLAY = {
    "policies": {
        "--policy NAME*": "never, once, every-N (each also with a solver: every-4:joint), "
        "deepseek, vllm, evenload, reorder (a checkpoint that was "
        "reordered for the windows of the --warm-start), or copy, copy:never and moonep, which "
        "copy experts for every window; options of the solver after commas: every-4:joint,"
        f"effort=fast. May be given repeatedly; never and once are always beside it. Default: "
        f"{', '.join(DEFAULT_POLICIES)}.",
        "--warm-start N:1": "Windows that policies see before the first one is served.",
        **options.GROUPS,
        "--dispatch NAME*": "How replicas are picked for tokens: even, live, nearest or static. "
        "Policies plan for it where they can, and are compared under each. May be given "
        "repeatedly. Default: even.",
        "--oracle NAME:fast": "Solver that plans each window on itself, for the regret: fast, "
        "auto, another solver's name, or none.",
    },
    "costs": {
        **options.PRICES,
        "--recorded-share X:1.0": "Share of the served tokens that the trace recorded, above "
        "0 and at most 1: 0.01 if it has one token in a hundred. Each window then stands for a "
        "hundred times as much serving.",
        "--no-delay": "Let moves take effect at once; they still cost what they cost.",
    },
}
OPTIONS = {
    "arguments": options.TRACE,
    "trace": options.READING,
    "cluster": options.CLUSTER,
    **REPLAY,
    "windows": {
        "--merge N:1": "Recorded windows summed into one.",
        "--interval N:1": "Windows from one decision to the next.",
        "--start FILE": "Placement that serves at first, in any format that evenload reads. "
        "Default: experts in order.",
        "--start-format NAME": options.PLACEMENT_FORMAT,
    },
    "output": options.JSON | {
        "--report FILE": "Write a page with pictures to a .html file.",
        "--save FILE": "Keep the replays in a .npz file, for `evenload report`.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Compare policies on a trace: what each would have reached, moved and cost.

    Before each interval a policy sees the past only; the windows that follow are served with what
    it decided. Seconds come from the cost model, see --hardware, --model and --cost.
    """
    from evenload.replay import get_policy, replay
    from evenload.report.page import check_page_path
    from evenload.report.saved import check_saved_path, save_replays

    names = policies_of(args)
    for name in names:
        get_policy(name)
    dispatches = dispatches_of(args)
    if args.report is not None:
        check_page_path(args.report)
    if args.save is not None:
        check_saved_path(args.save)
    output.check_places(args.report, args.save)
    trace = inputs.open_trace(args.trace, args)
    how = settings_of(args, trace) | {"merge": args.merge, "interval": args.interval}
    how["start"] = inputs.open_placement("start", args, trace.num_experts, trace.layers)
    cluster = inputs.cluster_of(args, args.slots, trace.num_experts)
    started = time.perf_counter()
    replays = []
    with output.kernels():
        for dispatch, name in itertools.product(dispatches, names):
            with output.busy(name) as tell:
                how |= {"dispatch": dispatch, "progress": tell}
                replays.append(replay(trace, cluster, name, **how))
    windows, seconds = sum(len(r.windows) for r in replays), time.perf_counter() - started
    output.say(f"replayed {windows} windows in {seconds:.2f} s ({windows / seconds:,.0f} a second)")
    if args.save is not None:
        save_replays(args.save, replays)
        output.say(f"wrote the replays to {args.save}")
    write_page_to(args.report, replays, trace)
    show_replays(trace, replays, args.json)


def policies_of(args: Namespace) -> list[str]:
    """Return the policies to compare, each once: those asked for, never and once."""
    return list(dict.fromkeys([*(args.policy or DEFAULT_POLICIES), "never", "once"]))


def dispatches_of(args: Namespace) -> list[str]:
    """Return the dispatches to compare policies under, each once."""
    from evenload.checks import one_of
    from evenload.dispatch import DISPATCHES

    asked = args.dispatch or ["even"]
    return list(dict.fromkeys(one_of("--dispatch", name, DISPATCHES) for name in asked))


def settings_of(args: Namespace, trace: Trace) -> dict[str, Any]:
    """Return what `REPLAY` says, but for the policies, as arguments of `replay`."""
    return {
        "warm_start": args.warm_start,
        "cost": inputs.cost_of(args, trace.num_layers, trace.num_experts),
        "num_groups": args.groups,
        "oracle": None if args.oracle == "none" else args.oracle,
        "recorded_share": args.recorded_share,
        "delay": not args.no_delay,
    }
