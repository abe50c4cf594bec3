"""Timing that survives a noisy machine: interleaved rounds, medians, ratios within a round."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

ROUND_SECONDS = 0.02
MAX_CALLS = 25

Result = TypeVar("Result")
Rounds = dict[str, list[float]]


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Time functions in turn (A B C, A B C, ...), so that a slow spell hits all of them.

    Parameters
    ----------
    functions : mapping of str to callable
        Called without arguments. Each is called twice before anything is timed.
    rounds : int
        How often the turn is taken. A function much faster than `ROUND_SECONDS` is called several
        times in its turn, and the median of these calls counts.

    Returns
    -------
    dict of str to list of float
        Seconds of each function in each round.
    """
    seconds = clocked(functions, rounds)
    return {name: [wall for wall, _ in values] for name, values in seconds.items()}


def clocked(
    functions: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return, as `interleaved` does, the seconds of the clock and of the CPU (all threads)."""
    calls = {name: _calls_a_round(function) for name, function in functions.items()}
    result: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            result[name].append(_time(function, calls[name]))
    return result


def once(function: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds of a single call, and its result: for what takes long."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum in milliseconds."""
    values = [1000 * value for value in seconds]
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times faster `fast` is: the median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _calls_a_round(function: Callable[[], object]) -> int:
    function()  # compiles, or loads what was compiled
    seconds, _ = _time(function, 1)
    return max(1, min(MAX_CALLS, int(ROUND_SECONDS / seconds)))


def _time(function: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the median time of a call, and its mean CPU time, whose clock is a coarse one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        seconds = []
        busy = time.process_time()
        for _ in range(calls):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), (time.process_time() - busy) / calls
    finally:
        if enabled:
            gc.enable()
