"""Many replays side by side: policies, slots, GPUs and intervals."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evenload.checks import positive_int
from evenload.cluster import check_groups
from evenload.cost.model import check_sample
from evenload.replay.cell import Cell, grid, run_cell
from evenload.replay.run import check_cost, check_warm_start
from evenload.replay.store import Store, trace_digest
from evenload.solvers import get_solver
from evenload.threads import usable_cores
from evenload.trace import Trace, check_trace

Row = dict[str, Any]


def sweep(
    trace: Any,
    *,
    policies: Sequence[str],
    gpus: Any,
    slots: Any,
    folder: str | os.PathLike[str],
    windows: Any = 1,
    intervals: Any = 1,
    gpus_per_node: int | None = None,
    warm_start: int = 1,
    cost: Any = None,
    num_groups: int = 1,
    oracle: str | None = "fast",
    sample: float = 1.0,
    delay: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Row]:
    """Replay every combination of policies, GPUs, slots, windows and intervals.

    Each finished cell becomes a small file in `folder` at once. After an interrupt, or with a
    larger grid, the same call goes on from there: cells that are done are not run again. A cell is
    another where the trace, a setting or the version of evenload differs.

    Parameters
    ----------
    trace : Trace or array_like, [T, L, E]
        One that is read from a file is sent to workers as its path, an array whole.
    policies : sequence of str
        See `get_policy`.
    gpus, slots, windows, intervals : int or sequence of int
    folder : path-like
        For finished cells.
    gpus_per_node : int, optional
        Default: all GPUs are in one node.
    warm_start, cost, num_groups, oracle, sample, delay
        As `replay`; the oracle by name only.
    executor : concurrent.futures.Executor, optional
        Where cells run: any pool, or a cluster's, e.g. ``distributed.Client().get_executor()``. It
        is left open. Default: one process a core of this machine (a script then has to call this
        below ``if __name__ == "__main__":``).
    workers : int, optional
        Processes instead of one a core; 1 runs all in this process. Not with `executor`.
    progress : callable, optional
        Called with the number of cells done and of all, before the first and after each.

    Returns
    -------
    list of dict
        A row a cell, in the grid's order with policies varying fastest: what sets it apart
        (``policy``, ``gpus``, ``nodes``, ``slots``, ``window``, ``interval``) and `Replay.figures`.

    Raises
    ------
    ValueError
        As `replay`, before any cell runs where that can be told; for an empty list; for both
        `executor` and `workers`; or if a file in `folder` is no finished cell.
    """
    given = check_trace(trace)
    cells = grid(given, policies, gpus, slots, windows, intervals, gpus_per_node)
    for merged in {cell.window for cell in cells}:
        check_warm_start(warm_start, given.merged(merged))
    if executor is not None and workers is not None:
        raise ValueError(f"workers={workers} and an executor were given; leave one of them out")
    how: dict[str, Any] = {
        "warm_start": warm_start,
        "cost": check_cost(cost),
        "num_groups": check_groups(num_groups, given.num_experts),
        "oracle": _check_oracle(oracle),
        "sample": check_sample(sample),
        "delay": bool(delay),
    }
    settings = {**how, "cost": asdict(how["cost"]), "trace": trace_digest(given)}
    store = Store(Path(folder), settings)
    todo = [cell for cell in cells if not store.has(cell)]
    tell = progress or (lambda done, total: None)
    tell(len(cells) - len(todo), len(cells))
    count = usable_cores() if workers is None else positive_int("workers", workers)
    if executor is None and min(count, len(todo)) <= 1:
        for number, cell in enumerate(todo, len(cells) - len(todo) + 1):
            store.put(cell, run_cell(given, cell, how))
            tell(number, len(cells))
    elif todo:
        with _ours(min(count, len(todo))) if executor is None else _given(executor) as pool:
            _run(pool, given, todo, how, store, lambda done: tell(done, len(cells)), len(cells))
    return [store.get(cell) for cell in cells]


def _run(
    pool: Executor,
    trace: Trace,
    todo: list[Cell],
    how: dict[str, Any],
    store: Store,
    tell: Callable[[int], object],
    total: int,
) -> None:
    """Run cells and keep each as it comes; whatever happens, none that has finished is lost."""
    cells: dict[Future[Row], Cell] = {}
    done = total - len(todo)
    try:
        for cell in todo:  # one by one: an interrupt may come between any two
            cells[pool.submit(run_cell, trace, cell, how)] = cell
        for future in as_completed(cells):
            store.put(cells[future], future.result())
            done += 1
            tell(done)
    except BaseException:
        for future, cell in cells.items():
            finished = not future.cancel() and future.done()
            if finished and future.exception() is None and not store.has(cell):
                store.put(cell, future.result())
        raise


def _one_thread() -> None:
    """Let a worker compute on one core: there is a worker on each."""
    os.environ.setdefault("EVENLOAD_NUM_THREADS", "1")


@contextmanager
def _ours(workers: int) -> Iterator[Executor]:
    """Open a pool of processes; after an error or interrupt they are ended, not waited for."""
    # A forked process would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()


@contextmanager
def _given(executor: Any) -> Iterator[Executor]:
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(
            f"executor={executor!r} has no submit(); use a concurrent.futures.Executor, or None"
        )
    yield executor


def _check_oracle(oracle: Any) -> str | None:
    if oracle is not None and not isinstance(oracle, str):
        raise ValueError(f"oracle={oracle!r}: a sweep takes 'fast', a solver's name or None")
    if oracle not in (None, "fast", "auto"):
        get_solver(oracle)
    return oracle
