"""``evenload sweep``: a grid of replays."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evenload.cli import inputs, options, output
from evenload.cli.replay import REPLAY, dispatches_of, policies_of, settings_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

EXAMPLES = """
Examples:
  evenload sweep trace.npz --gpus 8 --hardware h100-ib --redundant 0 --redundant 8 -o results.csv
"""

OPTIONS = {
    "arguments": options.TRACE,
    "trace": options.READING,
    "cluster": {
        "--gpus G*!": f"{options.THE_GPUS} May be given repeatedly.",
        "--gpus-per-node N": "GPUs per node. Default: all in one.",
        "--slots S*": f"{options.THE_SLOTS} May be given repeatedly.",
        "--redundant R*": "Instead of --slots: slots beyond one for each expert. May be given "
        "repeatedly.",
    },
    **REPLAY,
    "windows": {
        "--merge N*": "Recorded windows summed into one. May be given repeatedly. Default: 1.",
        "--interval N*": "Windows from one decision to the next. May be given repeatedly. "
        "Default: 1.",
    },
    "where it runs": {
        "--workers N": "Processes. Default: one per core.",
        "--dask ADDRESS": "Run on the Dask cluster of this scheduler instead.",
    },
    "output": options.JSON | {
        "-o, --output FILE!": "Where the results go: a .parquet (needs pyarrow), .csv or .json "
        "file. Finished replays are kept in a folder of that name with .cells behind it.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Replay a grid: policies, dispatches, GPUs, slots, merged windows and intervals.

    Answers what a policy is worth on other clusters; how many slots to buy, `evenload size` says.
    Interrupted, or with more values, the same command goes on from what is done.
    """
    from evenload.replay import sweep, write_results
    from evenload.replay.results import check_results_path
    from evenload.report.tables import print_policies, sweep_lines

    check_results_path(args.output)
    output.check_places(args.output)
    trace = inputs.open_trace(args.trace, args)
    folder = args.output.with_name(f"{args.output.name}.cells")
    try:
        with _pool(args.dask) as pool, output.busy("replays") as tell:
            rows = sweep(
                trace,
                policies=policies_of(args),
                num_gpus=args.gpus,
                num_slots=slots_of(args.slots, args.redundant, trace.num_experts),
                folder=folder,
                merge=args.merge or 1,
                interval=args.interval or 1,
                dispatch=dispatches_of(args),
                gpus_per_node=args.gpus_per_node,
                executor=pool,
                workers=args.workers,
                progress=tell,
                **settings_of(args, trace),
            )
    except KeyboardInterrupt:
        output.say(f"finished replays are kept in {folder}; the same command goes on from there")
        raise
    write_results(args.output, rows)
    output.say(f"wrote the results to {args.output}")
    if args.json:
        output.show_json(trace, cells=rows)
        return
    T, L, E = trace.shape
    title = f"{Path(trace.source).name}: {T} windows, {L} layers x {E} experts"
    print_policies(title, rows, sweep_lines(rows), sys.stdout, cells=True)


def slots_of(slots: list[int] | None, redundant: list[int] | None, num_experts: int) -> list[int]:
    """Return the numbers of slots, from either way of giving them."""
    if not slots and not redundant:
        raise ValueError(
            f"how many slots is not said; give --slots (at least {num_experts}) or --redundant"
        )
    if slots and redundant:
        raise ValueError(options.ONE_WAY)
    for extra in redundant or []:
        if extra < 0:
            raise ValueError(f"--redundant {extra} is less than 0; use 0 or more")
    return slots or [num_experts + extra for extra in redundant or []]


@contextmanager
def _pool(dask: str | None) -> Iterator[Executor | None]:
    if dask is None:
        yield None
        return
    from evenload.extras import needed

    with needed("distributed", "distributed", "dask", "--dask").Client(dask) as client:
        yield client.get_executor()
