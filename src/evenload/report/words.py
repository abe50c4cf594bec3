"""What the page of a replay says in words: the answer at its top, and the settings at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import PurePath
from typing import Any

import evenload
from evenload.replay import Replay
from evenload.report.policies import Row, against, policy_lines, total_seconds
from evenload.report.text import counted, down, show_bytes, show_seconds
from evenload.trace import Trace

OURS = "evenload"
_PUBLISHED = "deepseek"


def hero(rows: Sequence[Row]) -> int:
    """Return which policy the answer is about: of ours, else of all, that with the least time."""
    ours = [i for i, row in enumerate(rows) if row["policy"].startswith(OURS)]
    return min(ours or range(len(rows)), key=lambda i: total_seconds(rows[i]))


def _moves(row: Row, others: Sequence[Row]) -> str:
    """Count moves in DeepSeek's, else in those of who moves most, of ours only where all are."""
    if not row["moves"]:
        return " without moving an expert."
    others = [other for other in others if other["moves"]]
    if not others:
        return f" with {row['moves']:,} experts moved."
    others = [other for other in others if not other["policy"].startswith(OURS)] or others
    others = [other for other in others if other["policy"].startswith(_PUBLISHED)] or others
    other = max(others, key=itemgetter("moves"))
    share = 100 * row["moves"] / other["moves"]
    return (
        f", with {share:.{0 if share >= 10 else 1}f}% of the moves of {other['policy']}, which "
        f"reached {down(other['balancedness'], 4)}."
    )


def answer(rows: Sequence[Row]) -> str:
    """Return the paragraph at the top of the page."""
    chosen = hero(rows)
    row, best = rows[chosen], min(rows, key=total_seconds)
    of = "" if row["oracle"] is None else f" of the oracle's {down(row['oracle'], 4)}"
    moves = _moves(row, [other for i, other in enumerate(rows) if i != chosen])
    verdict = [*policy_lines(rows)]
    if row is not best:
        compared = against(row, rows)
        verdict.insert(0, f"Moving included, {row['policy']} takes {compared}.")
    return (
        f"{row['policy']} reached a balancedness of {down(row['balancedness'], 4)}{of}{moves} "
        f"{' '.join(line.strip() for line in verdict)}"
    )


def subtitle(replay: Replay, trace: Trace, dispatches: Sequence[str]) -> str:
    """Say in one line what was replayed."""
    c = replay.cluster
    nodes = f" in {c.num_nodes} nodes" if c.num_nodes > 1 else ""
    told = "" if [*dispatches] == ["even"] else f", dispatch {' and '.join(dispatches)}"
    return (
        f"{trace.num_layers} layers of {trace.num_experts} experts, {c.num_slots} slots on "
        f"{counted(c.num_gpus, 'GPU')}{nodes}, {counted(len(replay.windows), 'window')} served"
        f"{told}"
    )


# ---- settings --------------------------------------------------------------------------------


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


def _part(value: float) -> str:
    return f"{100 * value:g}%"


def _bandwidth(value: float) -> str:
    return f"{show_bytes(value)}/s"


_ABOUT = ("source", "shape", "policy", "cluster", "merge")  # said in words of their own
_WORDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "interval": ("windows between decisions", _text),
    "warm_start": ("windows seen before the first", _text),
    "num_groups": ("groups of experts", _text),
    "recorded_share": ("part of the traffic recorded", _part),
    "delay": ("moves take time", _text),
    "start": ("starting placement", _text),
    # Four digits are more than anybody measured.
    "cost: tokens_per_second": (
        "tokens per second through an expert", lambda v: f"{float(f'{v:.4g}'):,.0f}"),
    "cost: expert_bytes": ("weights of an expert", show_bytes),
    "cost: bandwidth_in_node": ("bandwidth inside a node", _bandwidth),
    "cost: bandwidth_between_nodes": ("bandwidth between nodes", _bandwidth),
    "cost: latency": ("latency of a transfer", show_seconds),
    "cost: overlap": ("transfers hidden behind serving", _part),
}  # fmt: skip


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every setting's words and value; what is nested gets its outer name before it."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in _ABOUT or value == "":
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}: ")
            continue
        words, show = _WORDS.get(name, (name.replace("_", " "), _text))
        flat[words] = show(value)
    return flat


def shared_and_own(
    replays: Sequence[Replay], trace: Trace
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the settings that all replays share, and the others with a value for each replay.

    An empty text stands where a replay has no such setting.
    """
    first, experts = replays[0], trace.num_experts
    c, windows = first.cluster, first.windows
    gpus = f"{c.num_gpus} on {counted(c.num_nodes, 'node')}"
    gpus += "" if c.all_alive else f", {c.num_gpus - len(c.living_gpus)} gone"
    gpus += ", of different speed" if len(set(c.speed)) > 1 else ""
    about = {
        "trace": PurePath(trace.source).name or "in memory",
        "model": f"{trace.num_layers} layers of {experts} experts",
        "GPUs": gpus,
        "slots of a layer": f"{c.num_slots} ({c.num_slots - experts} redundant)",
        "one window": counted(first.merge, "recorded window"),
        "served": f"{counted(len(windows), 'window')}, {windows[0]} to {windows[-1]}",
        "evenload": evenload.__version__,
    }
    each = [_flat(replay.settings) for replay in replays]
    names = dict.fromkeys(name for of in each for name in of)
    values = {name: [of.get(name, "") for of in each] for name in names}
    own = {name: of for name, of in values.items() if len(set(of)) > 1}
    return about | {name: of[0] for name, of in values.items() if name not in own}, own
