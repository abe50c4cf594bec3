"""Facts about a placement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evenload.io.base import PlacementFile
from evenload.placement import Placement
from evenload.report.inspect.facts import Facts, counted, some
from evenload.report.inspect.loads import layer_name, layers_row, layers_to_plain


def _in_order(placement: Placement) -> list[int]:
    """Return the layers whose experts lie in order, as an engine starts."""
    trivial = Placement.trivial(1, placement.num_experts, placement.cluster).physical_to_logical
    return np.flatnonzero((placement.physical_to_logical == trivial).all(axis=1)).tolist()


def _odd(file: PlacementFile, cluster_known: bool) -> Iterator[str]:
    placement = file.placement
    cluster, name = placement.cluster, layer_name(file.layers)
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
    order = _in_order(placement)
    if order:
        names = ", ".join(name(layer) for layer in order[:3])
        more = ", ..." if len(order) > 3 else ""
        yield (
            f"{len(order)} of {counted(placement.num_layers, 'layer')} hold the experts in order, "
            f"as an engine starts and as dense layers are filled: {names}{more}"
        )
    rows = placement.physical_to_logical
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


def _rows(file: PlacementFile, known: bool) -> list[tuple[str, str]]:
    placement, count = file.placement, file.placement.replica_count
    E = placement.num_experts
    replicated = (count > 1).sum(axis=1)
    copies = (
        f"{placement.cluster.num_living_slots - E} slots more than experts; of a layer "
        f"{replicated.mean():.1f} experts have several slots, {count.max()} at most"
    )
    rows = [("cluster", _cluster(file, known)), *layers_row(file.layers), ("replicas", copies)]
    if known:
        rows.append(("duplicates", f"{int(placement.duplicates.sum()):,}"))
    rows.append(("solver", file.solver or "not said"))
    rows.append(("loads it is for", file.load_digest or "not said"))
    return rows


def _plain(file: PlacementFile, known: bool) -> dict[str, Any]:
    placement, count = file.placement, file.placement.replica_count
    cluster = placement.cluster
    return {
        "cluster": cluster.arguments | {"num_slots": cluster.num_slots} if known else None,
        "num_layers": placement.num_layers,
        "num_experts": placement.num_experts,
        "num_slots": placement.num_slots,
        "layers": layers_to_plain(file.layers),
        "replicated_experts": (count > 1).sum(axis=1).tolist(),
        "most_replicas": int(count.max()),
        "duplicates": placement.duplicates.tolist() if known else None,
        "solver": file.solver,
        "load_digest": file.load_digest,
    }


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
    placement = file.placement
    odd = list(_odd(file, cluster_known))
    shape = (placement.num_layers, placement.num_experts, placement.num_slots)
    words = map(counted, shape, ("layer", "expert", "slot"))
    title = f"{Path(file.source).name}: a placement ({format}), {', '.join(words)}"
    plain = {"kind": "placement", "source": file.source, "format": format}
    plain |= _plain(file, cluster_known) | {"odd": odd, "notes": list(file.notes)}
    return Facts(title, _rows(file, cluster_known), odd, (), plain)
