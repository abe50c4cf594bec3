"""From what a placement file says, and what its caller says, to a placement, and what is left out.

Shared by every format of placements, ours and the engines'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.checks import divisor
from evenload.cluster import Cluster
from evenload.io.base import ClusterMissingError, FileFormatError, PlacementFile, PlacementShape
from evenload.io.files import some
from evenload.io.json import to_array
from evenload.io.recorded import experts_note
from evenload.layers import ModelLayers
from evenload.placement import Placement

MOST_SLOTS = 2**26  # over all layers
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_slots(layers: int, slots: int) -> None:
    """Raise `ValueError` if a placement has more slots over all layers than are read."""
    if layers * slots > MOST_SLOTS:
        raise ValueError(
            f"{layers} layers of {slots} slots are more than the {MOST_SLOTS} slots that are read; "
            "is it a placement?"
        )


def check_equal_slots(slots: Mapping[int, int]) -> None:
    """Raise `ValueError` unless every layer, by its number, has as many slots."""
    layers: dict[int, list[int]] = {}
    for layer, number in slots.items():
        layers.setdefault(number, []).append(layer)
    if len(layers) > 1:
        told = [f"{number} in layer {some(which, 5)}" for number, which in layers.items()]
        raise ValueError(
            f"the number of slots differs by layer: {'; '.join(told[:5])}; use as many in each "
            "layer, or a file for each number of slots"
        )


def map_of(value: Any, name: str) -> NDArray[Any]:
    """Return the experts of nested lists [layers][slots], as many slots in each layer."""
    if isinstance(value, list) and all(isinstance(row, list) for row in value):
        check_equal_slots({layer: len(row) for layer, row in enumerate(value)})
    return to_array(value, name)


def placement_file(
    array: NDArray[Any],
    path: Path,
    shape: PlacementShape,
    said: Mapping[str, Any] = _NOTHING,
) -> PlacementFile:
    """Return the placement of `array` [L, S], the expert in each slot, once all of it is checked.

    `said` are numbers of GPUs, nodes and experts and the arguments of a `Cluster` as the file says
    them, which may be anything. What it does not say is the caller's, `shape`; what both say has to
    agree, if asked. Slots are shared equally by the GPUs where nothing else is said. Without a
    number of experts the largest number + 1 is taken, since every expert has a slot, which is said
    in a note.
    """
    _check_experts(array)
    num_slots, found = array.shape[1], int(np.max(array)) + 1
    gpus = said.get("num_gpus")
    if isinstance(gpus, int) and gpus > num_slots:
        raise ValueError(
            f"num_gpus={gpus} is more than the {num_slots} slots of a layer; use {num_slots} or "
            "fewer"
        )
    names = ("num_gpus", "num_nodes", "num_experts")
    gpus, nodes, experts = (_settle(name, said.get(name), shape) for name in names)
    if gpus is None:
        raise ClusterMissingError(
            f"{path}: the file does not say on how many GPUs the {num_slots} slots of a layer are; "
            "give --gpus (num_gpus=), and --nodes (num_nodes=) where there are several"
        )
    notes: tuple[str, ...] = ()
    if experts is None:
        experts, notes = found, (experts_note(path, found, more=False),)
    if isinstance(experts, int) and experts > num_slots:
        raise ValueError(
            f"num_experts={experts} is more than the {num_slots} slots of a layer, and every "
            f"expert needs one; use {found} or fewer"
        )
    how = {key: said.get(key) for key in ("slots_per_gpu", "slots", "speed", "alive")}
    if how["slots_per_gpu"] is None and how["slots"] is None:
        divisor("num_gpus", gpus, f"{num_slots} slots per layer, num_slots", num_slots)
        how["slots_per_gpu"] = num_slots // gpus
    placement = Placement(array, Cluster(gpus, 1 if nodes is None else nodes, **how), experts)
    return PlacementFile(placement, str(path), notes=notes)


def _check_experts(array: NDArray[Any]) -> None:
    """Raise `ValueError` unless `array` [L, S] can be experts: S slots hold at most S."""
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"the placement has shape {list(array.shape)}; use [layers, slots], at least 1 of each"
        )
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"the placement has dtype {array.dtype}; use whole numbers, the expert of each slot"
        )
    layers, slots = array.shape
    check_slots(layers, slots)
    bad = (array < -1) | (array >= slots)
    if bad.any():
        raise ValueError(
            f"physical_to_logical{first_bad(array, bad)} is not an expert; {slots} slots hold 0 to "
            f"{slots - 1} at most"
        )


def _settle(name: str, in_file: Any, shape: PlacementShape) -> Any:
    """Return a number that the file, the caller, both or none say; both have to agree, if asked."""
    said = getattr(shape, name)
    if in_file is not None and said is not None and shape.agree and said != in_file:
        raise ValueError(
            f"the file has {name}={in_file}, and {name}={said} was given; use {in_file}, or leave "
            "it out"
        )
    return said if in_file is None else in_file


def for_layers(file: PlacementFile, wanted: ModelLayers, *, fill: bool = False) -> PlacementFile:
    """Return the rows that are the layers wanted; where the file names none, name them.

    With `fill` a layer that the file lacks gets its experts in order, as engines start: they look
    up the layers of a draft model (MTP) too.

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
    lacking = [layer for layer in wanted.ids if layer not in row]
    if lacking and not fill:
        raise FileFormatError(
            f"{file.source}: the placement has no layer {lacking[0]} of the model; it has "
            f"{known.ids[0]} to {known.ids[-1]}; name those alone, or put experts in order into "
            "the others with `evenload convert --fill` (fill=True)"
        )
    number = max(known.num_model_layers or wanted.num_model_layers or 0, wanted.ids[-1] + 1)
    said = known.num_model_layers is not None or wanted.num_model_layers is not None
    layers = ModelLayers(wanted.ids, number if said else None)
    if wanted.ids == known.ids:
        return replace(file, layers=layers)
    start = len(known)  # the row of experts in order
    trivial = Placement.trivial(1, old.num_experts, old.cluster).physical_to_logical
    rows = np.concatenate([old.physical_to_logical, trivial])
    rows = rows[[row.get(layer, start) for layer in wanted.ids]]
    left, notes = sorted(row.keys() - set(wanted.ids)), [*file.notes]
    if left:
        notes.append(
            f"{file.source}: {len(left)} of {len(known)} layers are left out (model layers "
            f"{some(left, 5)}): the others are asked for"
        )
    if lacking:
        notes.append(
            f"{file.source}: {len(lacking)} layers are not in it and have experts in order, as "
            f"engines start (model layers {some(lacking, 5)})"
        )
    placement = Placement(rows, old.cluster, old.num_experts)
    return replace(file, placement=placement, layers=layers, notes=tuple(notes))


def for_engine(file: PlacementFile, engine: str, *held: str) -> tuple[str, ...]:
    """Check that an engine can have a placement; return a note of what its file has no place for.

    `held` is what it has one for: "num_gpus", "layer numbers", "number of layers". GPUs that are
    gone, or of unequal slots, are a `ValueError`: the engines know neither.
    """
    cluster, layers = file.placement.cluster, file.layers
    if not cluster.all_alive:
        raise ValueError(
            f"{engine} has an expert in every slot, and GPU {cluster.alive.index(False)} of this "
            "placement is gone; plan for the living GPUs alone"
        )
    if len(set(cluster.slots)) > 1:
        raise ValueError(
            f"{engine} has as many slots on each GPU, and this placement from {min(cluster.slots)} "
            f"to {max(cluster.slots)}; plan with slots that are a multiple of "
            f"num_gpus={cluster.num_gpus}"
        )
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
        "the dispatch": file.dispatch is not None,
    }
    lost = ", ".join(name for name, there in there.items() if there)
    return (f"left out, since {engine}'s file has no place for it: {lost}",) if lost else ()
