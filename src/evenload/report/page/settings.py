"""The settings that made the replays: those all share, and those that tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import evenload
from evenload.report.page.units import show_bytes, show_seconds

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1e4 and value == int(value) else f"{value:,.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _bandwidth(value: float) -> str:
    return f"{show_bytes(value)}/s"


def _count(value: float) -> str:
    return f"{float(f'{value:.4g}'):,.0f}"  # four digits are more than anybody measured


_ABOUT = ("source", "shape", "policy", "cluster", "window")  # said in words of their own
_WORDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "interval": ("windows between decisions", _text),
    "warm_start": ("windows seen before the first", _text),
    "num_groups": ("groups of experts", _text),
    "sample": ("part of the traffic recorded", lambda x: f"{100 * x:g}%"),
    "delay": ("moves take time", _text),
    "start": ("starting placement", _text),
    "cost: tokens_per_second": ("tokens a second through an expert", _count),
    "cost: expert_bytes": ("weights of an expert", show_bytes),
    "cost: bandwidth_in_node": ("bandwidth inside a node", _bandwidth),
    "cost: bandwidth_between_nodes": ("bandwidth between nodes", _bandwidth),
    "cost: latency": ("latency of a transfer", show_seconds),
    "cost: overlap": ("transfers hidden behind serving", lambda x: f"{100 * x:g}%"),
}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every setting's words and value; what is nested gets its outer name before it."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in _ABOUT:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}: ")
            continue
        words, show = _WORDS.get(name, (name.replace("_", " "), _text))
        flat[words] = show(value)
    return flat


def _gpus(replay: Replay) -> str:
    c = replay.cluster
    gone = c.num_gpus - len(c.living_gpus)
    text = f"{c.num_gpus} on {c.num_nodes} node{'s' if c.num_nodes > 1 else ''}"
    text += f", {gone} gone" if gone else ""
    return f"{text}, of different speed" if len(set(c.speed)) > 1 else text


def _about(replay: Replay, trace: Trace) -> dict[str, str]:
    slots, experts, windows = replay.cluster.num_slots, trace.num_experts, len(replay.windows)
    return {
        "trace": PurePath(trace.source).name or "in memory",
        "model": f"{trace.num_layers} layers of {experts} experts",
        "GPUs": _gpus(replay),
        "slots of a layer": f"{slots} ({slots - experts} redundant)",
        "one window": f"{replay.window} recorded window{'s' if replay.window > 1 else ''}",
        "served": f"{windows:,} window{'s' if windows > 1 else ''}, "
        f"{replay.windows[0]} to {replay.windows[-1]}",
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
    each = [_flat(replay.settings) for replay in replays]
    names = list(dict.fromkeys(name for of in each for name in of))
    values = {name: [of.get(name, "") for of in each] for name in names}
    shared = {name: of[0] for name, of in values.items() if len(set(of)) == 1}
    own = {name: of for name, of in values.items() if name not in shared}
    return _about(replays[0], trace) | shared, own
