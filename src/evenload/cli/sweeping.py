"""Sweeping with a bar, here or on a cluster, and what is shown of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evenload.cli.replaying import bar
from evenload.cli.screen import say

if TYPE_CHECKING:
    from evenload.trace import Trace


def slots_of(slots: list[int] | None, redundant: list[int] | None, num_experts: int) -> list[int]:
    """Return the numbers of slots, from either way of giving them.

    Raises
    ------
    ValueError
        For both or none, or a negative number of redundant experts.
    """
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


def run_sweep(
    trace: Trace, dask: str | None, workers: int | None, **how: Any
) -> list[dict[str, Any]]:
    """Run a sweep; after an interrupt say on stderr what is kept. Arguments as `replay.sweep`."""
    from evenload.replay import sweep

    try:
        with _pool(dask) as pool, bar("replays") as tell:
            return sweep(trace, executor=pool, workers=workers, progress=tell, **how)
    except KeyboardInterrupt:
        say(f"finished replays are kept in {how['folder']}; the same command goes on from there")
        raise


def show_sweep(trace: Trace, rows: list[dict[str, Any]], output: Path, as_json: bool) -> None:
    """Print the rows to stdout, as a table or as one JSON object."""
    say(f"wrote the results to {output}")
    if as_json:
        import evenload

        about = {"source": trace.source, "shape": list(trace.shape)}
        typer.echo(json.dumps({"evenload": evenload.__version__, "trace": about, "cells": rows}))
        return
    from evenload.report.tables import enough_slots, print_policies

    T, L, E = trace.shape
    title = f"{Path(trace.source).name}: {T} windows, {L} layers x {E} experts"
    print_policies(title, rows, enough_slots(rows), sys.stdout, cells=True)
