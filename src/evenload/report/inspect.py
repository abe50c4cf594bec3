"""What a file of loads or of a placement is, and what is odd in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from evenload.io import PlacementFile, RawTrace
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.report.scan import Float, Scan, odd_in_loads, scan_loads
from evenload.report.tables import DIM, print_table
from evenload.report.text import counted, some, up

_LINES = (
    "skew: load of a layer's busiest expert over that of its mean expert.",
    "drift: part of a layer's tokens that go to other experts than in the window before (the "
    "total-variation distance of the two), mean over windows.",
    "by chance: what the drift would be if both windows had the same odds, and only chance set "
    "their tokens apart.",
)


@dataclass(frozen=True)
class Facts:
    """What was found out about a file.

    Parameters
    ----------
    title : str
        What it is, in one line.
    rows : sequence of (str, str)
        Names and figures, as people read them.
    odd : sequence of str
        What is odd in it, one sentence each.
    lines : sequence of str
        What the figures mean.
    plain : dict
        The same as plain numbers, strings and lists.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    odd: Sequence[str]
    lines: Sequence[str]
    plain: dict[str, Any]


def print_facts(facts: Facts, file: IO[str]) -> None:
    """Print title, table, what is odd and what the figures mean; coloured on a terminal only."""
    odd = [f"odd: {sentence}" for sentence in facts.odd] or ["nothing odd was found"]
    meaning = [(line, DIM) for line in facts.lines]
    print_table(facts.title, None, facts.rows, [*odd, *meaning], file, left=2, bold=1, fold=1)


# ---- the model's layers ----------------------------------------------------------------------


def _layer_name(layers: ModelLayers | None) -> Callable[[int], str]:
    """Return what people call the layer of a row: by the model's number where it is known."""
    if layers is None:
        return lambda row: f"layer {row}"
    return lambda row: f"model layer {layers.ids[row]}"


def _layers_row(layers: ModelLayers | None) -> list[tuple[str, str]]:
    if layers is None:
        return []
    ids, number = layers.ids, layers.num_model_layers
    span = f"{ids[0]} to {ids[-1]}" if ids == tuple(range(ids[0], ids[-1] + 1)) else some(ids)
    known = "" if number is None else f" of {number}"
    dense = f"; without experts: {some(layers.dense)}" if layers.dense else ""
    return [("model layers", f"{span}{known}{dense}")]


def _layers_to_plain(layers: ModelLayers | None) -> dict[str, Any] | None:
    if layers is None:
        return None
    number, dense = layers.num_model_layers, list(layers.dense)
    return {"ids": list(layers.ids), "num_model_layers": number, "dense": dense}


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
    divisor = int(np.gcd.reduce(scan.tokens.astype(np.int64).ravel())) if exact else None
    return {
        "mean": float(size.mean()),
        "least": float(size[least]),
        "least_window": int(windows[least]),
        "most": float(size[most]),
        "most_window": int(windows[most]),
        "multiple_of": divisor,
    }


def _figures(scan: Scan) -> dict[str, Any]:
    used = (scan.tokens > 0.0).sum(axis=0)
    busiest = scan.total.max(axis=1) * scan.shape[2]
    return {
        "tokens_per_layer": _tokens(scan),
        "skew": _per_layer(busiest, scan.total.sum(axis=1)),
        "skew_in_one_window": _per_layer(scan.skew, used),
        "drift": _per_layer(scan.drift, scan.pairs),
        "drift_by_chance": _per_layer(scan.chance, scan.pairs) if scan.whole else None,
    }


def _token_rows(tokens: dict[str, Any] | None, windows: int) -> Iterator[tuple[str, str]]:
    if tokens is None:
        yield "routed tokens", "none"
        return
    mean, least, most = (f"{tokens[name]:,.0f}" for name in ("mean", "least", "most"))
    if windows == 1:
        yield "routed tokens, of a layer", mean
    elif tokens["least"] == tokens["most"]:
        yield "routed tokens, of a layer in a window", f"{mean} in each"
    else:
        span = (
            f"{mean} mean, {least} (window {tokens['least_window']}) to {most} (window "
            f"{tokens['most_window']})"
        )
        yield "routed tokens, of a layer in a window", span
    if (tokens["multiple_of"] or 0) > 1:
        yield "they are multiples of", f"{tokens['multiple_of']:,}"


def _load_rows(
    scan: Scan, layers: ModelLayers | None, figures: dict[str, Any]
) -> list[tuple[str, str]]:
    T, layer = scan.shape[0], _layer_name(layers)

    def spread(name: str) -> tuple[str, str]:
        figure = figures[name]
        if figure is None:
            return name.replace("_", " "), "-"
        mean, most = up(figure["mean"], 3), up(figure["most"], 3)
        text = f"{mean} mean, at most {most} ({layer(figure['most_layer'])})"
        return name.replace("_", " "), text

    several = ("skew_in_one_window", "drift", "drift_by_chance") if T > 1 else ()
    return [
        ("numbers", scan.dtype),
        *_layers_row(layers),
        *_token_rows(figures["tokens_per_layer"], T),
        *map(spread, ("skew", *several)),
    ]


def inspect_loads(trace: RawTrace, source: str, format: str) -> Facts:
    """Read loads once, window by window, and say what they are.

    Parameters
    ----------
    trace : RawTrace
    source, format : str
        Where they are, and in which format.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0.
    """
    scan = scan_loads(trace)
    T, L, E = scan.shape
    figures = _figures(scan)
    odd = odd_in_loads(scan, _layer_name(trace.layers))
    words = ", ".join(map(counted, scan.shape, ("window", "layer", "expert")))
    plain = {
        "kind": "loads",
        "source": source,
        "format": format,
        "num_windows": T,
        "num_layers": L,
        "num_experts": E,
        "dtype": scan.dtype,
        "layers": _layers_to_plain(trace.layers),
        **figures,
        "odd": odd,
        "notes": list(trace.notes),
    }
    title = f"{Path(source).name}: loads ({format}), {words}"
    lines = _LINES if T > 1 else _LINES[:1]
    return Facts(title, _load_rows(scan, trace.layers, figures), odd, lines, plain)


# ---- placements ------------------------------------------------------------------------------


def _odd_in_placement(file: PlacementFile, cluster_known: bool) -> Iterator[str]:
    placement = file.placement
    cluster, name, rows = placement.cluster, _layer_name(file.layers), placement.physical_to_logical
    duplicates = placement.duplicates
    if cluster_known and duplicates.any():
        yield (
            f"{counted(int(duplicates.sum()), 'slot')} wasted on an expert that its GPU has "
            f"already; the first in {name(int(np.flatnonzero(duplicates)[0]))}"
        )
    if not cluster.all_alive:
        gone = [g for g in range(cluster.num_gpus) if not cluster.alive[g]]
        slots = cluster.num_slots - cluster.num_living_slots
        yield f"{counted(len(gone), 'GPU')} gone ({some(gone)}): {slots} slots hold nothing (-1)"
    trivial = Placement.trivial(1, placement.num_experts, cluster).physical_to_logical
    order = np.flatnonzero((rows == trivial).all(axis=1)).tolist()
    if order:
        names = ", ".join(name(layer) for layer in order[:3])
        more = ", ..." if len(order) > 3 else ""
        yield (
            f"{len(order)} of {counted(placement.num_layers, 'layer')} hold the experts in order, "
            f"as an engine starts and as dense layers are filled: {names}{more}"
        )
    if len(rows) > 1 and len(order) < len(rows) and (rows == rows[0]).all():
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
    """Say what a placement is.

    Parameters
    ----------
    file : PlacementFile
    format : str
        Name of its format.
    cluster_known : bool
        Whether its GPUs are those of the file or the caller; without them nothing is said of
        duplicates.
    """
    placement, cluster = file.placement, file.placement.cluster
    L, E, S = placement.num_layers, placement.num_experts, placement.num_slots
    replicated = (placement.replica_count > 1).sum(axis=1)
    most = int(placement.replica_count.max())
    duplicates = placement.duplicates if cluster_known else None
    copies = (
        f"{cluster.num_living_slots - E} slots more than experts; of a layer "
        f"{replicated.mean():.1f} experts have several slots, {most} at most"
    )
    rows = [("cluster", _cluster(file, cluster_known)), *_layers_row(file.layers)]
    rows.append(("replicas", copies))
    if duplicates is not None:
        rows.append(("duplicates", f"{int(duplicates.sum()):,}"))
    rows.append(("solver", file.solver or "not said"))
    rows.append(("loads it is for", file.load_digest or "not said"))
    odd = list(_odd_in_placement(file, cluster_known))
    plain = {
        "kind": "placement",
        "source": file.source,
        "format": format,
        "cluster": cluster.arguments | {"num_slots": S} if cluster_known else None,
        "num_layers": L,
        "num_experts": E,
        "num_slots": S,
        "layers": _layers_to_plain(file.layers),
        "replicated_experts": replicated.tolist(),
        "most_replicas": most,
        "duplicates": None if duplicates is None else duplicates.tolist(),
        "solver": file.solver,
        "load_digest": file.load_digest,
        "odd": odd,
        "notes": list(file.notes),
    }
    words = ", ".join(map(counted, (L, E, S), ("layer", "expert", "slot")))
    title = f"{Path(file.source).name}: a placement ({format}), {words}"
    return Facts(title, rows, odd, (), plain)
