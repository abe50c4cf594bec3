"""What the page of a replay says in words: the answer at its top, and the settings at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import evenload
from evenload.report.text import (
    counted,
    down,
    percent_down,
    percent_up,
    show_bytes,
    show_seconds,
)

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace

Row = Mapping[str, Any]  # as `Replay.figures`

OURS = "evenload"
_PUBLISHED = "deepseek"


def hero(rows: Sequence[Row]) -> int:
    """Return which policy the answer is about: ours if there, else the one that takes least time.

    Of several of ours it is the one that takes least time.
    """
    ours = [i for i, row in enumerate(rows) if row["policy"].startswith(OURS)]
    return min(ours or range(len(rows)), key=lambda i: float(rows[i]["total_seconds"]))


def _reference(rows: Sequence[Row], chosen: int) -> Row | None:
    """Return what its moves are counted in: DeepSeek's, else who moves most; None if nobody moves.

    Another policy of ours is no reference, unless there is nothing else.
    """
    others = [row for i, row in enumerate(rows) if i != chosen and row["moves"]]
    foreign = [row for row in others if not row["policy"].startswith(OURS)] or others
    published = [row for row in foreign if row["policy"].startswith(_PUBLISHED)]
    return max(published or foreign, key=lambda row: int(row["moves"]), default=None)


def _reached(row: Row, other: Row | None) -> str:
    of = "" if row["oracle"] is None else f" of the oracle's {down(row['oracle'], 3)}"
    text = f"{row['policy']} reached a balancedness of {down(row['balancedness'], 3)}{of}"
    if not row["moves"]:
        return f"{text} without moving an expert."
    if other is None:
        return f"{text} with {row['moves']:,} experts moved."
    share = row["moves"] / other["moves"]
    part = f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"
    return (
        f"{text}, with {part} of the moves of {other['policy']}, "
        f"which reached {down(other['balancedness'], 3)}."
    )


def _paid(row: Row) -> str:
    paid, count = row["paid"], row["rebalances"]
    if count == 1:
        return f"Its one rebalance {'paid' if paid else 'did not pay'} for itself."
    return f"Rebalancing paid for itself in {paid:,} of {count:,} cases." if count else ""


def _fastest(rows: Sequence[Row], start_seconds: float) -> str:
    best = min(rows, key=lambda row: float(row["total_seconds"]))
    gain = 1.0 - best["total_seconds"] / start_seconds
    if gain <= 0.0:
        loss = f"{percent_up(-gain, 1)} more" if gain else "just as much"
        return (
            "Moving included, no policy took less time than keeping the starting placement would "
            f"have; the best, {best['policy']}, took {loss}."
        )
    return (
        f"Moving included, {best['policy']} took the least time: "
        f"{percent_down(gain)} less than with the starting placement kept."
    )


def answer(rows: Sequence[Row], start_seconds: float) -> str:
    """Return the paragraph at the top of the page.

    Parameters
    ----------
    rows : sequence of mapping
        As `Replay.figures`, at least one.
    start_seconds : float
        Time that the starting placement would have taken.
    """
    chosen = hero(rows)
    reached = _reached(rows[chosen], _reference(rows, chosen))
    sentences = (reached, _paid(rows[chosen]), _fastest(rows, start_seconds))
    return " ".join(sentence for sentence in sentences if sentence)


def subtitle(replay: Replay, trace: Trace) -> str:
    """Say in one line what was replayed."""
    c = replay.cluster
    nodes = f" in {c.num_nodes} nodes" if c.num_nodes > 1 else ""
    return (
        f"{trace.num_layers} layers of {trace.num_experts} experts, {c.num_slots} slots on "
        f"{counted(c.num_gpus, 'GPU')}{nodes}, {counted(len(replay.windows), 'window')} served"
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


def _count(value: float) -> str:
    return f"{float(f'{value:.4g}'):,.0f}"  # four digits are more than anybody measured


_ABOUT = ("source", "shape", "policy", "cluster", "window")  # said in words of their own
_WORDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "interval": ("windows between decisions", _text),
    "warm_start": ("windows seen before the first", _text),
    "num_groups": ("groups of experts", _text),
    "sample": ("part of the traffic recorded", _part),
    "delay": ("moves take time", _text),
    "start": ("starting placement", _text),
    "cost: tokens_per_second": ("tokens a second through an expert", _count),
    "cost: expert_bytes": ("weights of an expert", show_bytes),
    "cost: bandwidth_in_node": ("bandwidth inside a node", _bandwidth),
    "cost: bandwidth_between_nodes": ("bandwidth between nodes", _bandwidth),
    "cost: latency": ("latency of a transfer", show_seconds),
    "cost: overlap": ("transfers hidden behind serving", _part),
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


def _about(replay: Replay, trace: Trace) -> dict[str, str]:
    c, experts, windows = replay.cluster, trace.num_experts, replay.windows
    gone = c.num_gpus - len(c.living_gpus)
    gpus = f"{c.num_gpus} on {counted(c.num_nodes, 'node')}"
    gpus += f", {gone} gone" if gone else ""
    gpus += ", of different speed" if len(set(c.speed)) > 1 else ""
    return {
        "trace": PurePath(trace.source).name or "in memory",
        "model": f"{trace.num_layers} layers of {experts} experts",
        "GPUs": gpus,
        "slots of a layer": f"{c.num_slots} ({c.num_slots - experts} redundant)",
        "one window": counted(replay.window, "recorded window"),
        "served": f"{counted(len(windows), 'window')}, {windows[0]} to {windows[-1]}",
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
