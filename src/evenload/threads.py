"""Spread independent rows over a few threads; kernels release the interpreter lock.

Results never depend on it: every row is computed on its own, whichever thread it falls to.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

MOST_THREADS = 8  # a planner runs beside a serving engine
STEPS_A_THREAD = 4096  # slots below which handing work over costs more than it saves


_most = [MOST_THREADS]


def use_at_most(threads: int) -> None:
    """Use fewer threads from now on, where `EVENLOAD_NUM_THREADS` does not say how many."""
    _most[0] = threads
    _forget_threads()


@cache
def num_threads() -> int:
    """Return how many threads kernels use: `EVENLOAD_NUM_THREADS`, else one a core, at most 8."""
    wanted = os.environ.get("EVENLOAD_NUM_THREADS")
    if wanted is None:
        return min(usable_cores(), _most[0])
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise ValueError(
            f"EVENLOAD_NUM_THREADS={wanted!r} is not a positive integer; use 1 or more"
        )
    return int(wanted)


def usable_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(num_threads() - 1, 1), thread_name_prefix="evenload")


def _forget_threads() -> None:
    """Threads do not survive a fork: the child starts its own."""
    _pool.cache_clear()
    num_threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def spread(num_rows: int, steps: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(first, end)`` for parts that cover all rows, side by side where it pays.

    It computes the rows from `first` up to `end`, writing to places no other row writes to. `steps`
    is the size of the whole work in slots.
    """
    parts = max(1, min(num_threads(), num_rows, steps // STEPS_A_THREAD))
    ends = [num_rows * part // parts for part in range(parts + 1)]
    others = [_pool().submit(run, ends[p], ends[p + 1]) for p in range(1, parts)]
    try:
        run(ends[0], ends[1])
    except Exception:
        wait(others)
        raise
    # An interrupt does not wait: it may have left a lock of Numba's that the others wait for.
    for other in others:
        other.result()
