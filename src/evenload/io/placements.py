"""From what a placement file says, and what its caller says, to a placement, and what is left out.

Shared by every format of placements, ours and the engines'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.checks import divisor
from evenload.cluster import Cluster
from evenload.io.base import (
    ClusterMissingError,
    FileFormatError,
    PlacementFile,
    PlacementShape,
    checking,
)
from evenload.io.recorded import taken_experts
from evenload.layers import ModelLayers
from evenload.placement import Placement

MOST_SLOTS = 2**26  # over all layers


def settle(name: str, in_file: int | None, shape: PlacementShape, where: str) -> int | None:
    """Return a number that the file, the caller, both or none say; both have to agree, if asked."""
    said: int | None = getattr(shape, name)
    if in_file is None:
        return said
    if said is not None and shape.agree and said != in_file:
        raise FileFormatError(
            f"{where}: the file has {name}={in_file}, and {name}={said} was given; use {in_file}, "
            "or leave it out"
        )
    return in_file


def equal_gpus(num_slots: int, shape: PlacementShape, where: str) -> Cluster:
    """Return the cluster whose GPUs, which the caller has to say, share a layer's slots equally."""
    num_gpus = shape.num_gpus
    if num_gpus is None:
        raise ClusterMissingError(
            f"{where}: the file does not say on how many GPUs the {num_slots} slots of a layer "
            "are; give --gpus (num_gpus=), and --nodes (num_nodes=) where there are several"
        )
    with checking(where):
        divisor("num_gpus", num_gpus, f"{num_slots} slots a layer, num_slots", num_slots)
        return Cluster(num_gpus, shape.num_nodes or 1, num_slots // num_gpus)


def check_slots(layers: int, slots: int, where: str) -> None:
    """Raise `FileFormatError` if a placement has more slots over all layers than are read."""
    if layers * slots > MOST_SLOTS:
        raise FileFormatError(
            f"{where}: {layers} layers of {slots} slots are more than the {MOST_SLOTS} slots that "
            "are read; is it a placement?"
        )


def check_experts(array: NDArray[Any], where: str) -> None:
    """Raise `FileFormatError` unless `array` [L, S] can be experts: S slots hold at most S."""
    if array.ndim != 2 or array.size == 0:
        raise FileFormatError(
            f"{where}: the placement has shape {list(array.shape)}; use [layers, slots], at least "
            "1 of each"
        )
    if array.dtype.kind not in "iu":
        raise FileFormatError(
            f"{where}: the placement has dtype {array.dtype}; use whole numbers, the expert of "
            "each slot"
        )
    layers, slots = array.shape
    check_slots(layers, slots, where)
    bad = (array < -1) | (array >= slots)
    if bad.any():
        raise FileFormatError(
            f"{where}: physical_to_logical{first_bad(array, bad)} is no expert; {slots} slots hold "
            f"0 to {slots - 1} at most"
        )


def placement_file(
    array: NDArray[Any],
    cluster: Cluster,
    num_experts: int | None,
    where: str,
    layers: ModelLayers | None = None,
    **origin: str | None,
) -> PlacementFile:
    """Return the placement of `array` [L, S], which `check_experts` let pass, and its `origin`.

    Without `num_experts` the largest number + 1 is taken, since every expert has a slot, which is
    said in a note.
    """
    found = int(np.max(array)) + 1
    experts = found if num_experts is None else num_experts
    notes = (taken_experts(where, found),) if num_experts is None else ()
    if isinstance(experts, int) and experts > array.shape[1]:
        raise FileFormatError(
            f"{where}: num_experts={experts} is more than the {array.shape[1]} slots of a layer, "
            f"and every expert needs one; use {found} or fewer"
        )
    with checking(where):
        placement = Placement(array, cluster, experts)
    return PlacementFile(placement, where, layers=layers, notes=notes, **origin)


def for_layers(file: PlacementFile, wanted: ModelLayers) -> PlacementFile:
    """Return the rows that are the layers wanted; where the file names none, name them.

    Raises
    ------
    FileFormatError
        If a layer is not in the file, or it names none and has another number of them.
    """
    known, old = file.layers, file.placement
    if known is None:
        if len(wanted) != old.num_layers:
            raise FileFormatError(
                f"{file.source}: the placement has {old.num_layers} layers, and {len(wanted)} are "
                f"named ({wanted.ids[0]} to {wanted.ids[-1]}); name {old.num_layers}"
            )
        return replace(file, layers=wanted)
    row = {layer: i for i, layer in enumerate(known.ids)}
    missing = next((layer for layer in wanted.ids if layer not in row), None)
    if missing is not None:
        raise FileFormatError(
            f"{file.source}: the placement has no layer {missing} of the model; it has "
            f"{known.ids[0]} to {known.ids[-1]}"
        )
    number = known.num_model_layers
    layers = ModelLayers(wanted.ids, wanted.num_model_layers if number is None else number)
    if wanted.ids == known.ids:
        return replace(file, layers=layers)
    rows = old.physical_to_logical[[row[layer] for layer in wanted.ids]]
    left = [layer for layer in known.ids if layer not in set(wanted.ids)]
    note = (
        f"{file.source}: {len(left)} of {len(known)} layers are left out (model layers "
        f"{', '.join(map(str, left[:5]))}{', ...' if len(left) > 5 else ''}): the others are asked "
        "for"
    )
    placement = Placement(rows, old.cluster, old.num_experts)
    return replace(file, placement=placement, layers=layers, notes=(*file.notes, note))


# ---- what an engine's file does not hold: said where it is harmless, refused where not -----------


def need_whole_gpus(file: PlacementFile, engine: str) -> None:
    """Raise `ValueError` for GPUs that are gone, or of unequal slots: the engines know neither."""
    cluster = file.placement.cluster
    if not cluster.all_alive:
        gone = next(g for g in range(cluster.num_gpus) if not cluster.alive[g])
        raise ValueError(
            f"{engine} has an expert in every slot, and GPU {gone} of this placement is gone; "
            "plan for the living GPUs alone"
        )
    if len(set(cluster.slots)) > 1:
        raise ValueError(
            f"{engine} has as many slots on each GPU, and this placement from {min(cluster.slots)} "
            f"to {max(cluster.slots)}; plan with slots that are a multiple of "
            f"num_gpus={cluster.num_gpus}"
        )


def left_out(file: PlacementFile, engine: str, *held: str) -> tuple[str, ...]:
    """Return a note that names what the file has no place for, or none.

    `held` is what it has one for: "num_gpus", "layer numbers", "number of layers".
    """
    cluster, layers = file.placement.cluster, file.layers
    there = {
        f"num_gpus={cluster.num_gpus}": "num_gpus" not in held,
        f"num_nodes={cluster.num_nodes}": cluster.num_nodes > 1,
        "the GPUs' speed": len(set(cluster.speed)) > 1,
        "the model's layer numbers": layers is not None and "layer numbers" not in held,
        "the model's number of layers": layers is not None
        and layers.num_model_layers is not None
        and "number of layers" not in held,
        "the solver": file.solver is not None,
        "the loads' digest": file.load_digest is not None,
    }
    names = [name for name, lost in there.items() if lost]
    if not names:
        return ()
    return (f"left out, since {engine}'s file has no place for it: {', '.join(names)}",)
