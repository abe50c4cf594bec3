"""Many replays side by side: policies, slots, GPUs and intervals."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import evenload
from evenload.checks import multiple, one_of, part, positive_int
from evenload.cluster import Cluster, check_groups
from evenload.dispatch import DISPATCHES
from evenload.io import replace_file
from evenload.io.files import remove_unfinished
from evenload.replay.policies import get_policy
from evenload.replay.run import check_cost, check_warm_start, replay
from evenload.solvers import get_solver
from evenload.threads import usable_cores
from evenload.trace import Trace, check_trace

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Where a sweep's replays differ."""

    policy: str
    num_gpus: int
    num_nodes: int
    num_slots: int
    merge: int
    interval: int
    dispatch: str = "even"


def sweep(
    trace: Any,
    *,
    policies: Sequence[str],
    num_gpus: Any,
    num_slots: Any,
    folder: str | os.PathLike[str],
    cost: Any,
    merge: Any = 1,
    interval: Any = 1,
    gpus_per_node: int | None = None,
    warm_start: int = 1,
    num_groups: int = 1,
    dispatch: str | Sequence[str] = "even",
    oracle: str | None = "fast",
    recorded_share: float = 1.0,
    delay: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Row]:
    """Replay every combination of policies, dispatches, GPUs, slots, merges and intervals.

    Returns a row a cell, in the grid's order with policies varying fastest: what sets it apart
    (``policy``, ``num_gpus``, ``num_nodes``, ``num_slots``, ``merge``, ``interval``,
    ``dispatch``) and `Replay.figures`.

    Each finished cell becomes a small file in `folder` at once. After an interrupt, or with a
    larger grid, the same call goes on from there: cells that are done are not run again, and what
    a killed call left half written is removed. A cell is
    another where the trace, a setting or the version of evenload differs. What `replay` would
    refuse is refused before any cell runs where that can be told.

    Parameters
    ----------
    trace : Trace or array_like, [T, L, E]
        One that is read from a file is sent to workers as its path, an array whole.
    policies : sequence of str
        See `get_policy`.
    num_gpus, num_slots, merge, interval : int or sequence of int
    dispatch : str or sequence of str, default "even"
        As `replay`, one or more.
    folder : path-like
        For finished cells.
    gpus_per_node : int, optional
        Default: all GPUs are in one node.
    warm_start, cost, num_groups, oracle, recorded_share, delay
        As `replay`; the oracle by name only.
    executor : concurrent.futures.Executor, optional
        Where cells run: any pool, or a cluster's, e.g. ``distributed.Client().get_executor()``. It
        is left open. Default: one process a core of this machine (a script then has to call this
        below ``if __name__ == "__main__":``).
    workers : int, optional
        Processes instead of one a core; 1 runs all in this process. Not with `executor`.
    progress : callable, optional
        Called with the number of cells done and of all, before the first and after each.
    """
    given = check_trace(trace)
    cells = grid(given, policies, num_gpus, num_slots, merge, interval, gpus_per_node, dispatch)
    for merged in {cell.merge for cell in cells}:
        check_warm_start(warm_start, merged, given)
    if executor is not None and workers is not None:
        raise ValueError(f"workers={workers} and an executor were given; leave one of them out")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ValueError(
            f"executor={executor!r} has no submit(); use a concurrent.futures.Executor, or None"
        )
    if oracle is not None and not isinstance(oracle, str):
        raise ValueError(f"oracle={oracle!r}: a sweep takes 'fast', a solver's name or None")
    if oracle not in (None, "fast", "auto"):
        get_solver(oracle)
    how: dict[str, Any] = {
        "warm_start": warm_start,
        "cost": check_cost(cost, given),
        "num_groups": check_groups(num_groups, given.num_experts),
        "oracle": oracle,
        "recorded_share": part("recorded_share", recorded_share),
        "delay": bool(delay),
    }
    count = usable_cores() if workers is None else positive_int("workers", workers)
    store = _Store(Path(folder), {**how, "cost": asdict(how["cost"]), "trace": _digest(given)})
    todo = [cell for cell in cells if not store.path(cell).is_file()]
    tell = progress or (lambda done, total: None)
    tell(len(cells) - len(todo), len(cells))
    count = min(count, len(todo))
    run = partial(_run_cell, given, how)
    if executor is None and count <= 1:
        runs = ((cell, run(cell)) for cell in todo)
    else:
        pool = _processes(count) if executor is None else nullcontext(executor)
        runs = _side_by_side(pool, run, todo, store)
    with closing(runs):  # at once, so that an error or interrupt here ends the workers as well
        for done, (cell, figures) in enumerate(runs, len(cells) - len(todo) + 1):
            store.put(cell, figures)
            tell(done, len(cells))
    return [store.get(cell) for cell in cells]


def grid(
    trace: Trace,
    policies: Sequence[str],
    num_gpus: Any,
    num_slots: Any,
    merge: Any,
    interval: Any,
    gpus_per_node: int | None,
    dispatch: str | Sequence[str] = "even",
) -> list[Cell]:
    """Return every combination, checked as `sweep` says; policies vary fastest."""
    names = [policies] if isinstance(policies, str) else list(policies)
    if not names:
        raise ValueError("policies is empty; use one or more")
    for name in names:
        get_policy(name)
    asked = [dispatch] if isinstance(dispatch, str) else list(dispatch)
    if not asked:
        raise ValueError("dispatch is empty; use one or more")
    ways = dict.fromkeys(one_of("dispatch", word, DISPATCHES) for word in asked)
    cells = []
    axes = {"num_gpus": num_gpus, "num_slots": num_slots, "merge": merge, "interval": interval}
    for G, S, count, apart in itertools.product(*map(_numbers, axes, axes.values())):
        nodes = 1
        if gpus_per_node is not None:
            each = positive_int("gpus_per_node", gpus_per_node)
            if each < G:
                multiple("num_gpus", G, "gpus_per_node", each)
            nodes = max(G // each, 1)
        Cluster(G, nodes, num_slots=S).check_holds(trace.num_experts)
        cells += [
            Cell(name, G, nodes, S, count, apart, way)
            for way in ways
            for name in dict.fromkeys(names)
        ]
    return cells


def _numbers(name: str, values: Any) -> list[int]:
    several = hasattr(values, "__iter__") and not isinstance(values, str)
    numbers = dict.fromkeys(positive_int(name, n) for n in (values if several else [values]))
    if not numbers:
        raise ValueError(f"{name} is empty; use one number or more")
    return list(numbers)


def _run_cell(trace: Trace, how: dict[str, Any], cell: Cell) -> Row:
    """Replay one cell and return its figures; what workers run."""
    cluster = Cluster(cell.num_gpus, cell.num_nodes, num_slots=cell.num_slots)
    how = how | {"merge": cell.merge, "interval": cell.interval, "dispatch": cell.dispatch}
    how["keep_placements"] = False
    return replay(trace, cluster, cell.policy, **how).figures()


def _side_by_side(
    opened: AbstractContextManager[Executor], run: partial[Row], todo: list[Cell], store: _Store
) -> Generator[tuple[Cell, Row], None, None]:
    """Yield cells as they finish; whatever happens, none that has finished is lost."""
    cells: dict[Future[Row], Cell] = {}
    with opened as pool:
        try:
            for cell in todo:  # one by one: an interrupt may come between any two
                with _no_interrupts():  # a worker that was starting would print its traceback
                    cells[pool.submit(run, cell)] = cell
            left = set(cells)
            while left:  # by the second: an interrupt just before a wait without end is not seen
                done, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    yield cells[future], future.result()
        except BaseException:
            for future, cell in cells.items():
                finished = not future.cancel() and future.done()
                if finished and future.exception() is None:
                    store.put(cell, future.result())
            raise


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold interrupts back until the block ends; processes that it starts never get any.

    Half-way through starting one, nobody would know it to end it. The mask is what a new process
    inherits; the handler is for an interrupt that another thread, without the mask, takes.
    """
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and handler is not None
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if ours:
            signal.signal(signal.SIGINT, handler)
            if came:
                signal.raise_signal(signal.SIGINT)


def _one_thread() -> None:
    """Let a worker compute on one core: there is a worker on each."""
    os.environ.setdefault("EVENLOAD_NUM_THREADS", "1")


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
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


def _digest(trace: Trace) -> str:
    """Return the SHA-256 of a trace's shape and windows, as 64 hex digits; reads all of it."""
    digest = hashlib.sha256("x".join(map(str, trace.shape)).encode())
    for window in trace:
        digest.update(np.ascontiguousarray(window, "<f8").tobytes())
    return digest.hexdigest()


class _Store:
    """Finished cells on disk, one small file each, named by all that a cell is the result of."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        self._folder = folder
        self._settings = {"evenload": evenload.__version__, **settings}

    def path(self, cell: Cell) -> Path:
        text = json.dumps({**self._settings, **asdict(cell)}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def put(self, cell: Cell, figures: Row) -> None:
        with replace_file(self.path(cell)) as stream:
            stream.write(json.dumps({**asdict(cell), **figures}, indent=1).encode())

    def get(self, cell: Cell) -> Row:
        path = self.path(cell)
        try:
            row: Row = json.loads(path.read_text())
            if {name: row[name] for name in asdict(cell)} == asdict(cell):
                return row
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"{path}: this is not a finished cell of a sweep; delete it")
