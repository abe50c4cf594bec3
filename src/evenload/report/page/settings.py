"""The settings that made the replays: those all share, and those that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import evenload

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1e4 and value == int(value) else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, _text(value)


def _about(replay: Replay, trace: Trace) -> dict[str, str]:
    c = replay.cluster
    shape = f"{trace.num_layers} layers x {trace.num_experts} experts"
    merged = "1 recorded window" if replay.window == 1 else f"{replay.window} recorded windows"
    first, last = int(replay.windows[0]), int(replay.windows[-1])
    return {
        "trace": PurePath(trace.source).name or "in memory",
        "model": shape,
        "GPUs": f"{c.num_gpus} on {c.num_nodes} node{'s' if c.num_nodes > 1 else ''}",
        "slots": f"{c.num_slots} of a layer, "
        f"{c.num_slots - trace.num_experts} beyond one for each expert",
        "one window": merged,
        "served": f"{len(replay.windows):,} windows, {first} to {last}",
        "evenload": evenload.__version__,
    }


def shared_and_own(
    replays: Sequence[Replay], trace: Trace
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the settings that all replays share, and the others with a value for each replay.

    Returns
    -------
    shared : dict of str to str
    own : dict of str to list of str
        An empty text where a replay has no such setting.
    """
    each = [dict(_flat(replay.settings)) for replay in replays]
    each = [{"interval": _text(r.interval)} | of for r, of in zip(replays, each, strict=True)]
    names = list(dict.fromkeys(name for of in each for name in of))
    values = {name: [of.get(name, "") for of in each] for name in names}
    shared = {name: v[0] for name, v in values.items() if len(set(v)) == 1}
    about = _about(replays[0], trace)
    return about | {k: v for k, v in shared.items() if k not in about}, {
        name: v for name, v in values.items() if name not in shared
    }
