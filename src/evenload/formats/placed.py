"""From what a placement file says, and what its caller says, to a placement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.checks import divisor
from evenload.cluster import Cluster
from evenload.formats.base import ClusterMissingError, FileFormatError, PlacementShape
from evenload.formats.sizes import check_slots, taken_experts
from evenload.placement import Placement


def settle(name: str, in_file: int | None, shape: PlacementShape, where: str) -> int | None:
    """Return a number that the file, the caller, both or none of them say.

    Parameters
    ----------
    name : {"num_gpus", "num_nodes", "num_experts"}
    in_file : int or None
    shape : PlacementShape
    where : str
        The file's name, for messages.

    Raises
    ------
    FileFormatError
        If both say it, have to agree, and do not.
    """
    said: int | None = getattr(shape, name)
    if in_file is None:
        return said
    if said is not None and shape.agree and said != in_file:
        raise FileFormatError(
            f"{where}: the file has {name}={in_file}, and {name}={said} was given; use {in_file}, "
            "or leave it out"
        )
    return in_file


def equal_gpus(num_slots: int, num_gpus: int | None, num_nodes: int | None, where: str) -> Cluster:
    """Return the cluster whose GPUs share a layer's slots equally.

    Raises
    ------
    ClusterMissingError
        If the number of GPUs is not known.
    FileFormatError
        If it does not divide the slots, or the nodes do not divide it.
    """
    if num_gpus is None:
        raise ClusterMissingError(
            f"{where}: the file does not say on how many GPUs the {num_slots} slots of a layer "
            "are; give --gpus (num_gpus=), and --nodes (num_nodes=) where there are several"
        )
    try:
        divisor("num_gpus", num_gpus, f"{num_slots} slots a layer, num_slots", num_slots)
        return Cluster(num_gpus, num_nodes or 1, num_slots // num_gpus)
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None


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


def build_placement(
    array: NDArray[Any], cluster: Cluster, num_experts: int | None, where: str
) -> tuple[Placement, tuple[str, ...]]:
    """Return the placement, and a note where the number of experts was told by what is placed.

    Parameters
    ----------
    array : integer ndarray, [L, S]
        As `check_experts` lets pass.
    cluster : Cluster
    num_experts : int or None
        None takes the largest number + 1: every expert has a slot.
    where : str
        The file's name, for messages.

    Raises
    ------
    FileFormatError
        If it is no placement.
    """
    found = int(np.max(array)) + 1
    experts = found if num_experts is None else num_experts
    notes = (taken_experts(where, found),) if num_experts is None else ()
    if isinstance(experts, int) and experts > array.shape[1]:
        raise FileFormatError(
            f"{where}: num_experts={experts} is more than the {array.shape[1]} slots of a layer, "
            f"and every expert needs one; use {found} or fewer"
        )
    try:
        return Placement(array, cluster, experts), notes
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None
