"""What a file of loads or of a placement is, and what is odd in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.checkpoint.order import ExpertOrder
from evenload.io import PlacementFile
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.report.tables import DIM, print_table
from evenload.report.text import counted, some, up
from evenload.trace import Trace

_LINES = (
    "skew: load of a layer's busiest expert over that of its mean expert.",
    "drift: part of a layer's tokens that go to other experts than in the window before (the "
    "total-variation distance of the two), mean over windows.",
    "by chance: what the drift would be if both windows had the same odds, and only chance set "
    "their tokens apart.",
)
_MOST = 1e150  # beyond it sums and products leave what a float holds
_CHANCE = math.sqrt(2.0 / math.pi)  # mean distance of a normal number from its mean, in sigmas
_FAR = 10.0  # times the median: windows of very different size
_SAME = 1e-3  # relative: every token visits as many experts in each layer
_RUNNING = 3  # windows that only grow, from which on it is told

Float = NDArray[np.float64]
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Facts:
    """What was found out about a file."""

    title: str  # what it is, in one line
    rows: Rows  # names and figures, as people read them
    plain: dict[str, Any]  # the same as plain numbers, strings and lists
    lines: Sequence[str] = ()  # what the figures mean

    @property
    def odd(self) -> list[str]:
        """What is odd in it, one sentence each."""
        sentences: list[str] = self.plain["odd"]
        return sentences


def print_facts(facts: Facts, file: IO[str]) -> None:
    """Print title, table, what is odd and what the figures mean; coloured on a terminal only."""
    odd = [f"odd: {sentence}" for sentence in facts.odd] or ["nothing odd was found"]
    meaning = [(line, DIM) for line in facts.lines]
    print_table(facts.title, None, facts.rows, [*odd, *meaning], file, left=2, bold=1, fold=1)


def _layers(layers: ModelLayers | None, count: int) -> tuple[list[str], Rows, Any]:
    """Return what people call each row's layer, and the model's layers for people and for JSON."""
    if layers is None:
        return [f"layer {row}" for row in range(count)], [], None
    ids, number = layers.ids, layers.num_model_layers
    span = f"{ids[0]} to {ids[-1]}" if ids == tuple(range(ids[0], ids[-1] + 1)) else some(ids)
    known = "" if number is None else f" of {number}"
    dense = f"; without experts: {some(layers.dense)}" if layers.dense else ""
    plain = {"ids": list(ids), "num_model_layers": number, "dense": list(layers.dense)}
    return [f"model layer {i}" for i in ids], [("model layers", f"{span}{known}{dense}")], plain


# ---- loads -------------------------------------------------------------------------------------


class Scan:
    """Figures of T windows of loads of L layers and E experts; reads each window once, in order.

    One window at a time is held in memory. A figure that a layer without tokens has not is NaN.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0, or beyond any count.
    """

    def __init__(self, trace: Trace) -> None:
        self.shape = T, L, E = trace.shape
        self.dtype = ""  # of the numbers in the file
        self.total = np.zeros((L, E))  # over windows
        self.tokens = np.zeros((T, L))  # of all experts
        self.skew, self.drift, self.chance = np.full((3, T, L), np.nan)  # see `_LINES`
        self.flat = np.zeros((T, L), bool)  # whether all experts have the same load, not 0
        self.repeats: list[int] = []  # windows equal to the one before
        self.whole = True  # whether all numbers are whole
        self.running = True  # whether no number is ever smaller than a window before
        before = None
        for t in range(T):
            window = trace.read(t)
            self.dtype = str(window.dtype)
            load = check_weights(f"window {t}: load", window)
            most = load.max(axis=1)
            if most.max() > _MOST:
                raise ValueError(
                    f"window {t}: load {most.max():g} is not a number of tokens; use {_MOST:g} or "
                    "less"
                )
            self.total += load
            self.tokens[t] = load.sum(axis=1)
            self.flat[t] = (most > 0.0) & (load.min(axis=1) == most)
            self.whole = self.whole and bool((load == np.floor(load)).all())
            with np.errstate(divide="ignore", invalid="ignore"):
                self.skew[t] = most * E / self.tokens[t]
                if before is not None:
                    self._compare(t, load, before)
            before = load

    def _compare(self, t: int, load: Float, before: Float) -> None:
        if np.array_equal(load, before):
            self.repeats.append(t)
        self.running = self.running and bool((load >= before).all())
        now, then = self.tokens[t, :, None], self.tokens[t - 1, :, None]
        self.drift[t] = 0.5 * np.abs(load / now - before / then).sum(axis=1)
        odds = (load + before) / (now + then)
        spread = np.sqrt(odds * (1.0 - odds) * (1.0 / now + 1.0 / then)).sum(axis=1)
        self.chance[t] = np.where(np.isnan(self.drift[t]), np.nan, 0.5 * _CHANCE * spread)


def _odd_in_loads(scan: Scan, names: list[str]) -> Iterator[str]:
    """Say what is odd, one sentence each; `names` [L] is what people call the layers."""
    T = scan.shape[0]
    none = scan.tokens == 0.0
    windows, layers = np.flatnonzero(none.all(axis=1)), np.flatnonzero(none.all(axis=0))
    if len(windows) == T:
        yield "there is no token at all"
        return
    if windows.size:
        yield f"{counted(windows.size, 'window')} without a token: {some(windows.tolist())}"
    if layers.size:
        yield (
            f"{counted(layers.size, 'layer')} without a token in any window, as dense layers have: "
            f"{some([names[i] for i in layers.tolist()])}"
        )
    gaps = np.argwhere(none & ~none.all(axis=1, keepdims=True) & ~none.all(axis=0))
    if gaps.size:
        t, layer = gaps[0]
        yield (
            f"{names[layer]} has no token in window {t}, where others have; "
            f"{counted(len(gaps), 'such gap')}"
        )
    unused = np.argwhere((scan.total == 0.0) & (scan.total.sum(axis=1, keepdims=True) > 0.0))
    if unused.size:
        layer, expert = unused[0]
        yield (
            f"{len(unused):,} of {scan.total.size:,} experts never get a token; the first is "
            f"expert {expert} of {names[layer]}"
        )
    size = scan.tokens.sum(axis=1)
    size = size[size > 0.0]
    middle = float(np.median(size))
    far = int(((size > _FAR * middle) | (size * _FAR < middle)).sum())
    if far:
        yield (
            f"{counted(far, 'window')} with more than {_FAR:g} times or less than 1/{_FAR:g} "
            "of the tokens of the median one"
        )
    less = scan.tokens < scan.tokens.max(axis=1, keepdims=True) * (1.0 - _SAME)
    uneven = np.flatnonzero((~none & less).any(axis=1))
    if uneven.size:
        yield (
            f"layers differ in tokens in {counted(uneven.size, 'window')}, the first is "
            f"{uneven[0]}; each token visits as many experts in every layer"
        )
    if not scan.whole:
        yield "not all numbers are whole: these are not counts of tokens"
    if scan.flat.any():
        what = "every window" if scan.flat.all() else "some window"
        flat = counted(int(scan.flat.any(axis=0).sum()), "layer")
        yield f"all experts have the same load in {what} of {flat}"
    if scan.repeats:
        repeats = counted(len(scan.repeats), "window")
        yield f"{repeats} equal to the one before: {some(scan.repeats)}"
    if T >= _RUNNING and scan.running and len(scan.repeats) < T - 1:
        yield "no number is ever smaller than a window before: are these running totals?"


def _per_layer(values: Float) -> dict[str, Any] | None:
    """Return mean and largest of a figure's means over windows, [T, L], where there are any."""
    there = np.flatnonzero(~np.isnan(values).all(axis=0))
    if not there.size:
        return None
    means = np.nanmean(values[:, there], axis=0)
    worst = int(means.argmax())
    return {
        "mean": float(means.mean()),
        "largest": float(means[worst]),
        "largest_layer": int(there[worst]),
    }


def _tokens(scan: Scan) -> tuple[dict[str, Any] | None, Rows]:
    """Return how many tokens the layers of a window have, routed ones: k for each token."""
    used = scan.tokens > 0.0
    windows = np.flatnonzero(used.any(axis=1))
    if windows.size == 0:
        return None, [("routed tokens", "none")]
    size = scan.tokens.sum(axis=1)[windows] / used.sum(axis=1)[windows]
    least, most = int(size.argmin()), int(size.argmax())
    exact = scan.whole and scan.tokens.max() < 2**53
    multiple = int(np.gcd.reduce(scan.tokens.astype(np.int64).ravel())) if exact else None
    plain = {
        "mean": float(size.mean()),
        "smallest": float(size[least]),
        "smallest_window": int(windows[least]),
        "largest": float(size[most]),
        "largest_window": int(windows[most]),
        "multiple_of": multiple,
    }
    name, span = "routed tokens, of a layer", f"{size.mean():,.0f}"
    if len(used) > 1:
        name += " in a window"
        span += " in each" if size[least] == size[most] else (
            f" mean, {size[least]:,.0f} (window {windows[least]}) to {size[most]:,.0f} (window "
            f"{windows[most]})"
        )  # fmt: skip
    multiples = [("they are multiples of", f"{multiple:,}")] if (multiple or 0) > 1 else []
    return plain, [(name, span), *multiples]


def inspect_loads(trace: Trace, source: str, format: str) -> Facts:
    """Read loads once, window by window, and say what they are; `ValueError` as `Scan`."""
    scan = Scan(trace)
    T, L, E = scan.shape
    names, layer_rows, layers = _layers(trace.layers, L)
    tokens, token_rows = _tokens(scan)
    with np.errstate(invalid="ignore"):
        of_all = scan.total.max(axis=1) * E / scan.total.sum(axis=1)
    spreads = {
        "skew": _per_layer(of_all[None]),
        "skew_in_one_window": _per_layer(scan.skew),
        "drift": _per_layer(scan.drift),
        "drift_by_chance": _per_layer(scan.chance) if scan.whole else None,
    }
    whole = max(float(scan.tokens.sum()), 1.0)
    phases = {
        name: float(sum(part.checked(t).sum() for t in range(T))) / whole
        for name, part in trace.phases.items()
    }
    rows = [("numbers", scan.dtype), *layer_rows, *token_rows]
    if phases:
        told = (f"{name} ({share:.1%} of the tokens)" for name, share in phases.items())
        rows.append(("phases", ", ".join(told)))
    for name, spread in list(spreads.items())[: None if T > 1 else 1]:
        text = "-" if spread is None else (
            f"{up(spread['mean'], 3)} mean, largest {up(spread['largest'], 3)} "
            f"({names[spread['largest_layer']]})"
        )  # fmt: skip
        rows.append((name.replace("_", " "), text))
    plain = {
        "kind": "loads", "source": source, "format": format, "num_windows": T, "num_layers": L,
        "num_experts": E, "dtype": scan.dtype, "layers": layers, "tokens_per_layer": tokens,
        "phases": phases, **spreads, "odd": list(_odd_in_loads(scan, names)),
        "notes": list(trace.notes),
    }  # fmt: skip
    words = ", ".join(map(counted, scan.shape, ("window", "layer", "expert")))
    title = f"{Path(source).name}: loads ({format}), {words}"
    return Facts(title, rows, plain, _LINES if T > 1 else _LINES[:1])


# ---- placements ------------------------------------------------------------------------------


def _odd_in_placement(file: PlacementFile, names: list[str], cluster_known: bool) -> Iterator[str]:
    placement, cluster = file.placement, file.placement.cluster
    rows, duplicates = placement.physical_to_logical, placement.duplicates
    if cluster_known and duplicates.any():
        yield (
            f"{counted(int(duplicates.sum()), 'slot')} wasted on an expert that its GPU has "
            f"already; the first in {names[np.flatnonzero(duplicates)[0]]}"
        )
    if not cluster.all_alive:
        gone = [g for g in range(cluster.num_gpus) if not cluster.alive[g]]
        slots = cluster.num_slots - cluster.num_living_slots
        yield f"{counted(len(gone), 'GPU')} gone ({some(gone)}): {slots} slots hold nothing (-1)"
    trivial = Placement.trivial(1, placement.num_experts, cluster).physical_to_logical
    order = np.flatnonzero((rows == trivial).all(axis=1))
    if order.size:
        yield (
            f"{order.size} of {counted(len(rows), 'layer')} hold the experts in order, as an "
            "engine starts and as dense layers are filled: "
            f"{some([names[layer] for layer in order], 3)}"
        )
    if len(rows) > 1 and order.size < len(rows) and (rows == rows[0]).all():
        yield "all layers are alike: was this planned for one load?"


def _cluster(file: PlacementFile, known: bool) -> str:
    c = file.placement.cluster
    if not known:
        return f"{c.num_slots} slots; the file does not say on how many GPUs (give --gpus)"
    low, high = min(c.slots), max(c.slots)
    each = f"{low} slots" if low == high else f"{low} to {high} slots"
    gpus = f"{counted(c.num_gpus, 'GPU')} of {each} in {counted(c.num_nodes, 'node')}"
    fast, slow = max(c.speed), min(c.speed)
    return gpus if fast == slow else f"{gpus}, speeds {slow:g} to {fast:g}"


def inspect_placement(file: PlacementFile, format: str, *, cluster_known: bool = True) -> Facts:
    """Say what a placement is; nothing of duplicates where nobody says its GPUs."""
    placement, cluster = file.placement, file.placement.cluster
    L, E, S = placement.num_layers, placement.num_experts, placement.num_slots
    replicated = (placement.replica_count > 1).sum(axis=1)
    most = int(placement.replica_count.max())
    names, layer_rows, layers = _layers(file.layers, L)
    copies = (
        f"{cluster.num_living_slots - E} slots more than experts; of a layer "
        f"{replicated.mean():.1f} experts have several slots, {most} at most"
    )
    rows = [("cluster", _cluster(file, cluster_known)), *layer_rows, ("replicas", copies)]
    if cluster_known:
        rows.append(("duplicates", f"{int(placement.duplicates.sum()):,}"))
    rows.append(("solver", file.solver or "not said"))
    rows.append(("loads it is for", file.load_digest or "not said"))
    if file.dispatch is not None:
        rows.append(("dispatch it is for", file.dispatch))
    plain = {
        "kind": "placement", "source": file.source, "format": format,
        "cluster": cluster.arguments | {"num_slots": S} if cluster_known else None,
        "num_layers": L, "num_experts": E, "num_slots": S, "layers": layers,
        "replicated_experts": replicated.tolist(), "most_replicas": most,
        "duplicates": placement.duplicates.tolist() if cluster_known else None,
        "solver": file.solver, "load_digest": file.load_digest, "dispatch": file.dispatch,
        "odd": list(_odd_in_placement(file, names, cluster_known)), "notes": list(file.notes),
    }  # fmt: skip
    words = ", ".join(map(counted, (L, E, S), ("layer", "expert", "slot")))
    return Facts(f"{Path(file.source).name}: a placement ({format}), {words}", rows, plain)


# ---- orders of experts -------------------------------------------------------------------------


def inspect_order(order: ExpertOrder, source: str) -> Facts:
    """Say what a checkpoint's order is: how many experts have other numbers, and whose it is."""
    L, E = order.experts.shape
    moved = (order.experts != np.arange(E)).sum(axis=1)
    names, layer_rows, layers = _layers(order.layers, L)
    gpus = "not said" if order.num_gpus is None else f"{order.num_gpus}"
    rows = [
        *layer_rows,
        ("layers that draft", f"{order.num_drafts} of them"),
        ("other numbers", f"{int(moved.sum()):,} of {L * E:,} experts"),
        ("GPUs it is for", gpus),
        ("model", order.model_type or "not said"),
        ("first model", order.source_digest or "not said"),
        ("loads it is for", order.load_digest or "not said"),
    ]
    still = [name for name, count in zip(names, moved, strict=True) if count == 0]
    odd = [f"experts have their first numbers in {some(still)}"] if still else []
    plain = {
        "kind": "order", "source": source, "num_layers": L, "num_experts": E, "layers": layers,
        "num_drafts": order.num_drafts, "moved_experts": moved.tolist(), "num_gpus": order.num_gpus,
        "model_type": order.model_type, "source_digest": order.source_digest,
        "load_digest": order.load_digest, "odd": odd, "notes": [],
    }  # fmt: skip
    words = ", ".join(map(counted, (L, E), ("layer", "expert")))
    return Facts(f"{Path(source).name}: an order of experts, {words}", rows, plain)
