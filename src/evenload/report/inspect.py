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


# ---- the model's layers ----------------------------------------------------------------------


def _layer_names(layers: ModelLayers | None, count: int) -> list[str]:
    """Return what people call each row's layer: by the model's number where it is known."""
    if layers is None:
        return [f"layer {row}" for row in range(count)]
    return [f"model layer {number}" for number in layers.ids]


def _layers(layers: ModelLayers | None) -> tuple[Rows, dict[str, Any] | None]:
    """Say which of the model's layers the rows are, for people and for JSON."""
    if layers is None:
        return [], None
    ids, number = layers.ids, layers.num_model_layers
    span = f"{ids[0]} to {ids[-1]}" if ids == tuple(range(ids[0], ids[-1] + 1)) else some(ids)
    known = "" if number is None else f" of {number}"
    dense = f"; without experts: {some(layers.dense)}" if layers.dense else ""
    plain = {"ids": list(ids), "num_model_layers": number, "dense": list(layers.dense)}
    return [("model layers", f"{span}{known}{dense}")], plain


# ---- one pass over the windows of loads, in the memory of one window ---------------------------


class Scan:
    """Sums over the T windows of loads of L layers and E experts; reads each window once, in order.

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
        self.skew = np.zeros(L)  # over windows with tokens: the largest load over the mean
        self.drift = np.zeros(L)  # over pairs of windows: their total-variation distance,
        self.chance = np.zeros(L)  # and what equal odds would give
        self.pairs = np.zeros(L, np.int64)  # of consecutive windows that both have tokens
        self.flat = np.zeros(L, np.int64)  # windows whose experts have the same load, not 0
        self.repeats: list[int] = []  # windows equal to the one before
        self.whole = True  # whether all numbers are whole
        self.running = True  # whether no number is ever smaller than a window before
        before = None
        for t in range(T):
            window = trace.read(t)
            self.dtype = str(window.dtype)
            load = check_weights(f"window {t}: load", window)
            if load.max() > _MOST:
                raise ValueError(
                    f"window {t}: load {load.max():g} is no number of tokens; use {_MOST:g} or less"
                )
            self._add(t, load)
            if before is not None:
                self._compare(t, load, before)
            before = load

    def _add(self, number: int, load: Float) -> None:
        self.tokens[number] = tokens = load.sum(axis=1)
        self.total += load
        used, most = tokens > 0.0, load.max(axis=1)
        self.skew[used] += most[used] / (tokens / load.shape[1])[used]
        self.flat += used & (load.min(axis=1) == most)
        self.whole = self.whole and bool((load == np.floor(load)).all())

    def _compare(self, number: int, load: Float, before: Float) -> None:
        if np.array_equal(load, before):
            self.repeats.append(number)
        self.running = self.running and bool((load >= before).all())
        now, then = self.tokens[number], self.tokens[number - 1]
        both = (now > 0.0) & (then > 0.0)
        now, then = now[both, None], then[both, None]
        p, q = load[both] / now, before[both] / then
        self.drift[both] += 0.5 * np.abs(p - q).sum(axis=1)
        odds = (load[both] + before[both]) / (now + then)
        spread = np.sqrt(odds * (1.0 - odds) * (1.0 / now + 1.0 / then))
        self.chance[both] += 0.5 * _CHANCE * spread.sum(axis=1)
        self.pairs += both


# ---- what is odd in loads ----------------------------------------------------------------------


def _gaps(scan: Scan, names: Sequence[str]) -> Iterator[str]:
    empty = scan.tokens == 0.0
    windows, layers = np.flatnonzero(empty.all(axis=1)), np.flatnonzero(empty.all(axis=0))
    if windows.size:
        yield f"{counted(windows.size, 'window')} without a token: {some(windows.tolist())}"
    if layers.size and layers.size < scan.shape[1]:
        yield (
            f"{counted(layers.size, 'layer')} without a token in any window, as dense layers have: "
            f"{some([names[i] for i in layers.tolist()])}"
        )
    empty = empty & ~empty.all(axis=1, keepdims=True) & ~empty.all(axis=0, keepdims=True)
    if empty.any():
        t, layer = np.argwhere(empty)[0]
        yield (
            f"{names[layer]} has no token in window {t}, where others have; "
            f"{counted(int(empty.sum()), 'such gap')}"
        )
    unused = (scan.total == 0.0) & (scan.total.sum(axis=1, keepdims=True) > 0.0)
    if unused.any():
        layer, expert = np.argwhere(unused)[0]
        yield (
            f"{int(unused.sum()):,} of {unused.size:,} experts never get a token; the first is "
            f"expert {expert} of {names[layer]}"
        )


def _sizes(scan: Scan) -> Iterator[str]:
    size = scan.tokens.sum(axis=1)
    size = size[size > 0.0]
    middle = float(np.median(size))
    far = int(((size > _FAR * middle) | (size * _FAR < middle)).sum())
    if far:
        yield (
            f"{counted(far, 'window')} with more than {_FAR:g} times or less than 1/{_FAR:g} "
            "of the tokens of the median one"
        )
    most = scan.tokens.max(axis=1, keepdims=True)
    uneven = np.flatnonzero(
        ((scan.tokens > 0.0) & (scan.tokens < most * (1.0 - _SAME))).any(axis=1)
    )
    if uneven.size:
        yield (
            f"layers differ in tokens in {counted(uneven.size, 'window')}, the first is "
            f"{uneven[0]}; each token visits as many experts in every layer"
        )


def _numbers(scan: Scan) -> Iterator[str]:
    T, L, _ = scan.shape
    if not scan.whole:
        yield "not all numbers are whole: these are no counts of tokens"
    flat = int((scan.flat > 0).sum())
    if flat:
        what = "every window" if int(scan.flat.sum()) == T * L else "some window"
        yield f"all experts have the same load in {what} of {counted(flat, 'layer')}"
    if scan.repeats:
        yield (
            f"{counted(len(scan.repeats), 'window')} equal to the one before: {some(scan.repeats)}"
        )
    if T >= _RUNNING and scan.running and len(scan.repeats) < T - 1:
        yield "no number is ever smaller than a window before: are these running totals?"


def odd_in_loads(scan: Scan, names: Sequence[str]) -> list[str]:
    """Return what is odd, one sentence each; `names` [L] is what people call the layers."""
    if not scan.tokens.any():
        return ["there is no token at all"]
    return [*_gaps(scan, names), *_sizes(scan), *_numbers(scan)]


# ---- loads -------------------------------------------------------------------------------------


def _per_layer(values: Float, counts: Any) -> dict[str, Any] | None:
    """Return mean and largest of what was summed, over the layers that have any."""
    there = counts > 0
    if not there.any():
        return None
    means = np.divide(values, counts, out=np.full(len(values), -1.0), where=there)
    worst = int(means.argmax())
    return {"mean": float(means[there].mean()), "most": float(means[worst]), "most_layer": worst}


def _tokens(scan: Scan) -> dict[str, Any] | None:
    """Return how many tokens the layers of a window have, routed ones: k for each token."""
    used = scan.tokens > 0.0
    windows = np.flatnonzero(used.any(axis=1))
    if windows.size == 0:
        return None
    size = scan.tokens.sum(axis=1)[windows] / used.sum(axis=1)[windows]
    least, most = int(size.argmin()), int(size.argmax())
    exact = scan.whole and scan.tokens.max() < 2**53
    return {
        "mean": float(size.mean()),
        "least": float(size[least]),
        "least_window": int(windows[least]),
        "most": float(size[most]),
        "most_window": int(windows[most]),
        "multiple_of": int(np.gcd.reduce(scan.tokens.astype(np.int64).ravel())) if exact else None,
    }


def _token_rows(tokens: dict[str, Any] | None, windows: int) -> Iterator[tuple[str, str]]:
    if tokens is None:
        yield "routed tokens", "none"
        return
    mean, least, most = (f"{tokens[name]:,.0f}" for name in ("mean", "least", "most"))
    if windows == 1:
        yield "routed tokens, of a layer", mean
    else:
        span = f"{mean} in each" if tokens["least"] == tokens["most"] else (
            f"{mean} mean, {least} (window {tokens['least_window']}) to {most} (window "
            f"{tokens['most_window']})"
        )  # fmt: skip
        yield "routed tokens, of a layer in a window", span
    if (tokens["multiple_of"] or 0) > 1:
        yield "they are multiples of", f"{tokens['multiple_of']:,}"


def inspect_loads(trace: Trace, source: str, format: str) -> Facts:
    """Read loads once, window by window, and say what they are; `ValueError` as `Scan`."""
    scan = Scan(trace)
    T, L, E = scan.shape
    names = _layer_names(trace.layers, L)
    layer_rows, layers = _layers(trace.layers)
    tokens = _tokens(scan)
    spreads = {
        "skew": _per_layer(scan.total.max(axis=1) * E, scan.total.sum(axis=1)),
        "skew_in_one_window": _per_layer(scan.skew, (scan.tokens > 0.0).sum(axis=0)),
        "drift": _per_layer(scan.drift, scan.pairs),
        "drift_by_chance": _per_layer(scan.chance, scan.pairs) if scan.whole else None,
    }
    rows = [("numbers", scan.dtype), *layer_rows, *_token_rows(tokens, T)]
    for name, spread in list(spreads.items())[: None if T > 1 else 1]:
        text = "-" if spread is None else (
            f"{up(spread['mean'], 3)} mean, at most {up(spread['most'], 3)} "
            f"({names[spread['most_layer']]})"
        )  # fmt: skip
        rows.append((name.replace("_", " "), text))
    plain = {
        "kind": "loads",
        "source": source,
        "format": format,
        "num_windows": T,
        "num_layers": L,
        "num_experts": E,
        "dtype": scan.dtype,
        "layers": layers,
        "tokens_per_layer": tokens,
        **spreads,
        "odd": odd_in_loads(scan, names),
        "notes": list(trace.notes),
    }
    words = ", ".join(map(counted, scan.shape, ("window", "layer", "expert")))
    title = f"{Path(source).name}: loads ({format}), {words}"
    return Facts(title, rows, plain, _LINES if T > 1 else _LINES[:1])


# ---- placements ------------------------------------------------------------------------------


def _odd_in_placement(file: PlacementFile, cluster_known: bool) -> Iterator[str]:
    placement, cluster = file.placement, file.placement.cluster
    rows, duplicates = placement.physical_to_logical, placement.duplicates
    names = _layer_names(file.layers, len(rows))
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
    layer_rows, layers = _layers(file.layers)
    copies = (
        f"{cluster.num_living_slots - E} slots more than experts; of a layer "
        f"{replicated.mean():.1f} experts have several slots, {most} at most"
    )
    rows = [("cluster", _cluster(file, cluster_known)), *layer_rows, ("replicas", copies)]
    if cluster_known:
        rows.append(("duplicates", f"{int(placement.duplicates.sum()):,}"))
    rows.append(("solver", file.solver or "not said"))
    rows.append(("loads it is for", file.load_digest or "not said"))
    plain = {
        "kind": "placement",
        "source": file.source,
        "format": format,
        "cluster": cluster.arguments | {"num_slots": S} if cluster_known else None,
        "num_layers": L,
        "num_experts": E,
        "num_slots": S,
        "layers": layers,
        "replicated_experts": replicated.tolist(),
        "most_replicas": most,
        "duplicates": placement.duplicates.tolist() if cluster_known else None,
        "solver": file.solver,
        "load_digest": file.load_digest,
        "odd": list(_odd_in_placement(file, cluster_known)),
        "notes": list(file.notes),
    }
    words = ", ".join(map(counted, (L, E, S), ("layer", "expert", "slot")))
    return Facts(f"{Path(file.source).name}: a placement ({format}), {words}", rows, plain)
