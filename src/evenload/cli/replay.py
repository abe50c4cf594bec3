"""``evenload replay``: policies compared on a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import (
    AsJson,
    Experts,
    GroupGpus,
    GroupNodes,
    LoadsFormat,
    PlacementFormat,
)
from evenload.cli.replaying import (
    DEFAULT_POLICIES,
    Costs,
    Groups,
    Hardware,
    Model,
    NoDelay,
    OracleName,
    Policies,
    Sample,
    TraceFile,
    WarmStart,
)


def replay(
    trace: TraceFile,
    gpus: GroupGpus,
    policy: Policies = None,
    nodes: GroupNodes = 1,
    slots: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            help="Slots of a layer over all GPUs. Default: as few as hold every expert once.",
        ),
    ] = None,
    window: Annotated[
        int, typer.Option(metavar="N", help="Recorded windows that are summed into one.")
    ] = 1,
    interval: Annotated[
        int, typer.Option(metavar="N", help="Windows from one decision to the next.")
    ] = 1,
    warm_start: WarmStart = 1,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Placement that serves at first, in any format that evenload reads. Default: "
            "experts in order.",
        ),
    ] = None,
    start_format: PlacementFormat = None,
    groups: Groups = 1,
    hardware: Hardware = "h100-ib",
    model: Model = "deepseek-v3",
    cost: Costs = None,
    sample: Sample = 1.0,
    oracle: OracleName = "fast",
    no_delay: NoDelay = False,
    experts: Experts = None,
    loads_format: LoadsFormat = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with pictures to a .html file."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep the replays in a .npz file, for `evenload report`."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare policies on a trace: what each would have reached, moved and cost.

    Before each interval a policy sees the past only; the windows that follow are served with what
    it decided. Seconds come from the cost model, see --hardware, --model and --cost.
    """
    from evenload.cli.prepare import cluster_for, open_placement
    from evenload.cli.replaying import cost_of, open_trace, oracle_of
    from evenload.cli.replays import (
        check_replay_outputs,
        ready,
        replay_all,
        save_all,
        show_replays,
        write_report,
    )
    from evenload.replay import get_policy

    given = policy or DEFAULT_POLICIES
    names = list(dict.fromkeys(given))
    for name in names:
        get_policy(name)
    how = {
        "window": window,
        "interval": interval,
        "warm_start": warm_start,
        "cost": cost_of(hardware, model, cost),
        "num_groups": groups,
        "oracle": oracle_of(oracle),
        "sample": sample,
        "delay": not no_delay,
    }
    check_replay_outputs(report, save)
    loads = open_trace(trace, experts, loads_format)
    how["start"] = open_placement(
        "--start", start, start_format, gpus, nodes, loads.num_experts, loads.layers
    )
    cluster = cluster_for(gpus, nodes, slots, loads.num_experts)
    ready()
    replays = replay_all(loads, cluster, names, how)
    save_all(save, replays)
    write_report(report, replays, loads)
    show_replays(loads, replays, as_json)
