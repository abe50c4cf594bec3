"""Timing that survives a noisy machine, tables, and what a result was measured on."""

import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROUND_SECONDS = 0.02
MAX_CALLS = 25
PACKAGES = ("evenload", "numpy", "numba", "torch")

Calls = Mapping[str, Callable[[], object]]
Rounds = dict[str, list[float]]


def say(text: str) -> None:
    """Show what is being measured, on one line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def clocked(calls: Calls, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time calls in turn (A B C, A B C, ...), so that a slow spell hits all of them.

    Returns
    -------
    dict of str to list of (float, float)
        Seconds by the clock and of the CPU (all threads) for each call in each round. A call
        much faster than `ROUND_SECONDS` is repeated within its round: the median by the clock
        counts, and the mean of the CPU, whose clock is coarser. Each is called twice before
        anything counts.
    """
    repeats = {}
    for name, call in calls.items():
        call()  # compiles, or loads what was compiled
        repeats[name] = max(1, min(MAX_CALLS, int(ROUND_SECONDS / _time(call, 1)[0])))
    result: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            result[name].append(_time(call, repeats[name]))
    return result


def interleaved(calls: Calls, rounds: int) -> Rounds:
    """Return the seconds by the clock of each call in each round, as `clocked` takes them."""
    return {name: [wall for wall, _ in took] for name, took in clocked(calls, rounds).items()}


def _time(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        seconds, busy = [], time.process_time()
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), (time.process_time() - busy) / repeats
    finally:
        if enabled:
            gc.enable()


def once(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a single call, and its result: for what takes long."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum in milliseconds."""
    values = [1000 * value for value in seconds]
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times faster `fast` is: the median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def fresh(
    words: Sequence[str], environment: Mapping[str, str] | None = None, folder: str | None = None
) -> str:
    """Run a Python of its own with these words, and return what it prints.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it said.
    """
    result = subprocess.run(
        [sys.executable, *words], env=os.environ | (environment or {}), cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"a process that was measured failed:\n{result.stderr[-2000:]}")
    return result.stdout


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left-aligned and the others right-aligned."""
    lines = [head, [":--", *("--:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float) -> str:
    """Return a positive number with three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def times(value: float | None) -> str:
    """Return a ratio like ``12.3x``, or a dash where there is none."""
    return "-" if value is None else f"{number(value)}x"


def machine() -> dict[str, str | int]:
    """Return CPU model, usable cores, system and the versions that matter; no name, no path."""
    result: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }  # fmt: skip
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown CPU"


def origin(section: Mapping[str, Any]) -> str:
    """Return in one line how, when and on what a section was measured."""
    told = section["machine"]
    names = ("python", *PACKAGES, "triton", "cuda")
    versions = ", ".join(f"{name} {told[name]}" for name in names if name in told)
    gpu = f"{told['gpu']}, " if "gpu" in told else ""
    return (
        f"`{section['command']}` on {section['date']}: {gpu}{told['cpu']}, {told['cores']} cores, "
        f"{told['system']}; {versions}"
    )
