"""``evenload sweep``: a grid of replays."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evenload.cli import shared
from evenload.cli.replay import DEFAULT_POLICIES, replay_options, settings_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

EXAMPLES = """
Examples:
  evenload sweep trace.npz --gpus 8 --redundant 0 --redundant 8 --redundant 16 -o results.parquet
"""


# fmt: off
def arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    shared.trace_options(parser)
    cluster = shared.cluster_options(parser, several=True)
    cluster.add_argument("--redundant", metavar="R", type=int, action="append", help="Instead of "
        "--slots: slots beyond one for each expert. May be given repeatedly.")
    replay_options(parser)
    windows = parser.add_argument_group("windows")
    windows.add_argument("--window", metavar="N", type=int, action="append",
        help="Recorded windows summed into one. May be given repeatedly. Default: 1.")
    windows.add_argument("--interval", metavar="N", type=int, action="append",
        help="Windows from one decision to the next. May be given repeatedly. Default: 1.")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--workers", metavar="N", type=int, help="Processes. Default: one per core.")
    where.add_argument("--dask", metavar="ADDRESS",
        help="Run on the Dask cluster of this scheduler instead.")
    output = shared.output_options(parser, placements=False)
    output.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="Where "
        "the results go: a .parquet (needs pyarrow), .csv or .json file. Finished replays are kept "
        "in a folder of that name with .cells behind it.")
# fmt: on


def run(args: Namespace) -> None:
    """Replay a grid of policies, GPUs, slots, windows and intervals.

    Answers how many redundant experts are worth their memory. Interrupted, or with more values, the
    same command goes on from what is done.
    """
    from evenload.replay import sweep, write_results
    from evenload.replay.results import check_results_path
    from evenload.report.tables import enough_slots, print_policies

    check_results_path(args.output)
    trace = shared.open_trace(args.trace, args)
    folder = args.output.with_name(f"{args.output.name}.cells")
    try:
        with _pool(args.dask) as pool, shared.busy("replays") as tell:
            rows = sweep(
                trace,
                policies=args.policy or DEFAULT_POLICIES,
                gpus=args.gpus,
                slots=slots_of(args.slots, args.redundant, trace.num_experts),
                folder=folder,
                windows=args.window or 1,
                intervals=args.interval or 1,
                gpus_per_node=args.gpus_per_node,
                executor=pool,
                workers=args.workers,
                progress=tell,
                **settings_of(args),
            )
    except KeyboardInterrupt:
        shared.say(f"finished replays are kept in {folder}; the same command goes on from there")
        raise
    write_results(args.output, rows)
    shared.say(f"wrote the results to {args.output}")
    if args.json:
        shared.show_json(trace, cells=rows)
        return
    T, L, E = trace.shape
    title = f"{Path(trace.source).name}: {T} windows, {L} layers x {E} experts"
    print_policies(title, rows, enough_slots(rows), sys.stdout, cells=True)


def slots_of(slots: list[int] | None, redundant: list[int] | None, num_experts: int) -> list[int]:
    """Return the numbers of slots, from either way of giving them."""
    if not slots and not redundant:
        raise ValueError(
            f"how many slots is not said; give --slots (at least {num_experts}) or --redundant"
        )
    if slots and redundant:
        raise ValueError("--slots and --redundant are two ways to say one thing; give one of them")
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
