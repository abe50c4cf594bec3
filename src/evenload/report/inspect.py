"""What a file of loads or of a placement is, and what is odd in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from evenload.io import PlacementFile, RawTrace
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.report.scan import Float, Scan, odd_in_loads
from evenload.report.tables import DIM, print_table
from evenload.report.text import counted, some, up

_LINES = (
    "skew: load of a layer's busiest expert over that of its mean expert.",
    "drift: part of a layer's tokens that go to other experts than in the window before (the "
    "total-variation distance of the two), mean over windows.",
    "by chance: what the drift would be if both windows had the same odds, and only chance set "
    "their tokens apart.",
)
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


# ---- loads -----------------------------------------------------------------------------------


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


def inspect_loads(trace: RawTrace, source: str, format: str) -> Facts:
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
