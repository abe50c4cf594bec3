"""``evenload sweep``: a grid of replays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import AsJson, Experts, LoadsFormat
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


def sweep(
    trace: TraceFile,
    gpus: Annotated[
        list[int], typer.Option(metavar="G", help="GPUs of the group. May be given repeatedly.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the results go: a .parquet (needs pyarrow), .csv or .json file. Finished "
            "replays are kept in a folder of that name with .cells behind it.",
        ),
    ],
    slots: Annotated[
        list[int] | None,
        typer.Option(metavar="S", help="Slots of a layer. May be given repeatedly."),
    ] = None,
    redundant: Annotated[
        list[int] | None,
        typer.Option(
            metavar="R",
            help="Instead of --slots: slots beyond one for each expert. May be given repeatedly.",
        ),
    ] = None,
    policy: Policies = None,
    window: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Recorded windows summed into one. May be given repeatedly. Default: 1.",
        ),
    ] = None,
    interval: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Windows from one decision to the next. May be given repeatedly. Default: 1.",
        ),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs of a node. Default: all in one.")
    ] = None,
    warm_start: WarmStart = 1,
    groups: Groups = 1,
    hardware: Hardware = "h100-ib",
    model: Model = "deepseek-v3",
    cost: Costs = None,
    sample: Sample = 1.0,
    oracle: OracleName = "fast",
    no_delay: NoDelay = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes. Default: one a core.")
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on the Dask cluster of this scheduler instead."),
    ] = None,
    experts: Experts = None,
    loads_format: LoadsFormat = None,
    as_json: AsJson = False,
) -> None:
    """Replay a grid of policies, GPUs, slots, windows and intervals.

    Answers how many redundant experts are worth their memory. Interrupted, or with more values, the
    same command goes on from what is done.
    """
    from evenload.cli.replaying import cost_of, open_trace, oracle_of
    from evenload.cli.sweeping import run_sweep, show_sweep, slots_of
    from evenload.replay import write_results
    from evenload.replay.results import check_results_path

    check_results_path(output)
    loads = open_trace(trace, experts, loads_format)
    rows = run_sweep(
        loads,
        dask,
        workers,
        policies=policy or DEFAULT_POLICIES,
        gpus=gpus,
        slots=slots_of(slots, redundant, loads.num_experts),
        windows=window or 1,
        intervals=interval or 1,
        gpus_per_node=gpus_per_node,
        folder=output.with_name(f"{output.name}.cells"),
        warm_start=warm_start,
        cost=cost_of(hardware, model, cost),
        num_groups=groups,
        oracle=oracle_of(oracle),
        sample=sample,
        delay=not no_delay,
    )
    write_results(output, rows)
    show_sweep(loads, rows, output, as_json)
