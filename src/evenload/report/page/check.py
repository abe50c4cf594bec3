"""What a page can be made of: replays of one trace that can be laid side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace

SUFFIXES = (".html", ".htm")


def check_page_path(path: str | os.PathLike[str]) -> None:
    """Raise before any work is done where the page could not be made.

    Raises
    ------
    ValueError
        If the file's ending is neither .html nor .htm, or plotly is not installed.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        ending = f"the ending {suffix!r}" if suffix else "no ending"
        raise ValueError(
            f"{path}: pages with {ending} are not known; use one of {', '.join(SUFFIXES)}"
        )
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise ValueError(
            "pages need plotly, which is not installed; pip install 'evenload[report]'"
        ) from None


def _same(name: str, first: Any, other: Any, policies: tuple[str, str]) -> None:
    if first != other:
        raise ValueError(
            f"replays: {policies[0]!r} has {name}={first}, and {policies[1]!r} {name}={other}; "
            "use replays of one trace with the same one"
        )


def _check_windows(first: Replay, other: Replay, policies: tuple[str, str]) -> None:
    ours, theirs = np.asarray(first.windows), np.asarray(other.windows)
    if not np.array_equal(ours, theirs):
        raise ValueError(
            f"replays: {policies[0]!r} served {_span(ours)}, and {policies[1]!r} {_span(theirs)}; "
            "use replays of the same windows"
        )


def _span(windows: Any) -> str:
    return f"{len(windows)} windows ({windows[0]} to {windows[-1]})"


def check_replays(replays: Sequence[Replay], trace: Trace) -> tuple[Replay, ...]:
    """Return the replays, if one page can show them all.

    Raises
    ------
    ValueError
        If there is none, two have one name, they differ in cluster, window or the windows that they
        served, one has not kept its placements, or the trace is not the one they served.
    """
    if not replays:
        raise ValueError("replays is empty; use at least one replay")
    first = replays[0]
    names = [replay.policy for replay in replays]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"replays: {name!r} is there {names.count(name)} times; use each once")
    for other in replays[1:]:
        policies = (first.policy, other.policy)
        _same("cluster", first.cluster, other.cluster, policies)
        _same("window", first.window, other.window, policies)
        _same("layers", first.balancedness.shape[1], other.balancedness.shape[1], policies)
        _check_windows(first, other, policies)
    for replay in replays:
        if len(replay.placements) != replay.num_rebalances + 1:
            raise ValueError(
                f"replays: {replay.policy!r} has kept {len(replay.placements)} of its "
                f"{replay.num_rebalances + 1} placements; replay with keep_placements=True"
            )
    _check_trace(first, trace)
    return tuple(replays)


def _check_trace(replay: Replay, trace: Trace) -> None:
    # Every expert has a slot, so the largest number tells how many there are.
    layers, experts = replay.placements.shape[1], int(replay.placements.max()) + 1
    if (trace.num_layers, trace.num_experts) != (layers, experts):
        raise ValueError(
            f"trace has {trace.num_layers} layers x {trace.num_experts} experts, and the replays "
            f"{layers} x {experts}; use the trace that they served"
        )
    needed = (int(replay.windows[-1]) + 1) * replay.window
    if trace.num_windows < needed:
        raise ValueError(
            f"trace has {trace.num_windows} windows, and the replays served {needed}; use the "
            "trace that they served"
        )
