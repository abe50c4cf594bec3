"""``evenload replay``: policies compared on a trace."""

from __future__ import annotations

import itertools
import time
from argparse import Namespace
from typing import Any

from evenload.cli import shared
from evenload.cli.report import show_replays, write_page_to

EXAMPLES = """
Examples:
  evenload replay trace.npz --gpus 8 --slots 40 --window 2 --model gpt-oss-20b
  evenload replay trace.npz --gpus 8 --slots 40 --policy never --policy every-4:joint
"""

DEFAULT_POLICIES = ["never", "once", "deepseek", "evenload"]

# What `replay` and `sweep` have in common.
REPLAY = {
    "policies": {
        "--policy NAME*": "never, once, every-N (each also with a solver: every-4:joint), "
        "deepseek, vllm, evenload, or copy, copy:never and moonep, which copy experts for every "
        "window; options of the solver after commas: every-4:joint,"
        f"effort=fast. May be given repeatedly. Default: {', '.join(DEFAULT_POLICIES)}.",
        "--warm-start N:1": "Windows that are seen before the first is served.",
        **shared.GROUPS,
        "--dispatch NAME*": "How replicas are picked for tokens: even, live, nearest or static. "
        "Policies plan for it where they can, and are compared under each. May be given "
        "repeatedly. Default: even.",
        "--oracle NAME:fast": "Who plans each window on itself, for the regret: fast, a solver, "
        "auto, or none.",
    },
    "costs": {
        "--hardware NAME:h100-ib": "What a second is: h100-ib, h200-ib, h800-ib, ascend-910c, "
        "ascend-910b, l40s-pcie or h100-pcie.",
        "--model NAME:deepseek-v3": "Whose experts move: deepseek-v3, deepseek-r1, "
        "deepseek-v2-lite, qwen3-235b-a22b, qwen3-30b-a3b, gpt-oss-20b, gpt-oss-120b, kimi-k2, "
        "glm-4.5, mixtral-8x7b or mixtral-8x22b.",
        "--cost NAME=X*": "Another number of the cost model: tokens_per_second, expert_bytes, "
        "bandwidth_in_node, bandwidth_between_nodes (bytes per second), latency (seconds) or "
        "overlap (0 to 1). May be given repeatedly.",
        "--sample X:1.0": "Fraction of the served tokens that the trace recorded: 0.01 for one in "
        "a hundred.",
        "--no-delay": "Let moves take effect at once; they still cost what they cost.",
    },
}
OPTIONS = {
    "arguments": shared.TRACE,
    "trace": shared.READING,
    "cluster": shared.CLUSTER,
    **REPLAY,
    "windows": {
        "--window N:1": "Recorded windows that are summed into one.",
        "--interval N:1": "Windows from one decision to the next.",
        "--start FILE": "Placement that serves at first, in any format that evenload reads. "
        "Default: experts in order.",
        "--start-format NAME": shared.PLACEMENT_FORMAT,
    },
    "output": shared.JSON | {
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

    names = list(dict.fromkeys(args.policy or DEFAULT_POLICIES))
    for name in names:
        get_policy(name)
    dispatches = dispatches_of(args)
    how = settings_of(args) | {"window": args.window, "interval": args.interval}
    if args.report is not None:
        check_page_path(args.report)
    if args.save is not None:
        check_saved_path(args.save)
    shared.check_places(args.report, args.save)
    trace = shared.open_trace(args.trace, args)
    how["start"] = shared.open_placement("start", args, trace.num_experts, trace.layers)
    cluster = shared.cluster_of(args, args.slots, trace.num_experts)
    started = time.perf_counter()
    replays = []
    with shared.kernels():
        for dispatch, name in itertools.product(dispatches, names):
            with shared.busy(name) as tell:
                how |= {"dispatch": dispatch, "progress": tell}
                replays.append(replay(trace, cluster, name, **how))
    windows, seconds = sum(len(r.windows) for r in replays), time.perf_counter() - started
    shared.say(f"replayed {windows} windows in {seconds:.2f} s ({windows / seconds:,.0f} a second)")
    if args.save is not None:
        save_replays(args.save, replays)
        shared.say(f"wrote the replays to {args.save}")
    write_page_to(args.report, replays, trace)
    show_replays(trace, replays, args.json)


def dispatches_of(args: Namespace) -> list[str]:
    """Return the dispatches to compare policies under, each once."""
    from evenload.checks import one_of
    from evenload.dispatch import DISPATCHES

    asked = args.dispatch or ["even"]
    return list(dict.fromkeys(one_of("--dispatch", name, DISPATCHES) for name in asked))


def settings_of(args: Namespace) -> dict[str, Any]:
    """Return what `replay_options` says, but for the policies, as arguments of `replay`."""
    from evenload.cost import CostModel

    numbers = {}
    for text in args.cost or []:
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ValueError(f"--cost {text}: no number; write it as overlap=0.9") from None
    return {
        "warm_start": args.warm_start,
        "cost": CostModel.preset(args.hardware, args.model, **numbers),
        "num_groups": args.groups,
        "oracle": None if args.oracle == "none" else args.oracle,
        "sample": args.sample,
        "delay": not args.no_delay,
    }
