"""The GPUs that experts are placed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evenload.checks import divisor, multiple, positive_int


@dataclass(frozen=True, init=False)
class Cluster:
    """GPUs of one expert-parallel group, with equally many slots each.

    Slot s lives on GPU ``s // slots_per_gpu``, GPU g on node ``g // gpus_per_node``.

    Parameters
    ----------
    num_gpus : int
        GPUs (ranks) of the group.
    num_nodes : int, default 1
        Nodes; links are fast inside a node and slow between nodes.
    slots_per_gpu : int, optional
        Experts that one GPU holds in each layer. Give this or `num_slots`.
    num_slots : int, optional
        Slots of a layer over all GPUs.

    Raises
    ------
    ValueError
        If a number is not a positive integer, `num_gpus` is no multiple of `num_nodes`, `num_slots`
        no multiple of `num_gpus`, or both or neither of `slots_per_gpu`, `num_slots` are given.

    Examples
    --------
    >>> Cluster(32, num_nodes=4, num_slots=288)
    Cluster(num_gpus=32, num_nodes=4, slots_per_gpu=9)
    """

    num_gpus: int
    num_nodes: int
    slots_per_gpu: int

    def __init__(
        self,
        num_gpus: int,
        num_nodes: int = 1,
        slots_per_gpu: int | None = None,
        *,
        num_slots: int | None = None,
    ) -> None:
        gpus = positive_int("num_gpus", num_gpus)
        nodes = positive_int("num_nodes", num_nodes)
        multiple("num_gpus", gpus, "num_nodes", nodes)
        if (slots_per_gpu is None) == (num_slots is None):
            given = "neither" if slots_per_gpu is None else "both"
            raise ValueError(f"slots_per_gpu, num_slots: {given} given; give one of the two")
        if num_slots is not None:
            multiple("num_slots", positive_int("num_slots", num_slots), "num_gpus", gpus)
            slots_per_gpu = num_slots // gpus
        object.__setattr__(self, "num_gpus", gpus)
        object.__setattr__(self, "num_nodes", nodes)
        object.__setattr__(self, "slots_per_gpu", positive_int("slots_per_gpu", slots_per_gpu))

    @classmethod
    def smallest_for(cls, num_experts: int, num_gpus: int, num_nodes: int = 1) -> Cluster:
        """Return the cluster with the fewest slots that hold every expert once."""
        gpus = positive_int("num_gpus", num_gpus)
        experts = positive_int("num_experts", num_experts)
        return cls(gpus, num_nodes, slots_per_gpu=-(-experts // gpus))

    @property
    def num_slots(self) -> int:
        """Slots of a layer over all GPUs."""
        return self.num_gpus * self.slots_per_gpu

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node."""
        return self.num_gpus // self.num_nodes

    def check_holds(self, num_experts: int, name: str = "num_slots") -> None:
        """Raise `ValueError` unless every one of `num_experts` experts gets a slot.

        `name` is the caller's word for the number of slots.
        """
        if self.num_slots < num_experts:
            per_gpu = -(-num_experts // self.num_gpus)
            raise ValueError(
                f"{name}={self.num_slots} is fewer than num_experts={num_experts}, and every "
                f"expert needs a slot; use {per_gpu * self.num_gpus} or more"
            )


def check_cluster(value: Any) -> Cluster:
    """Return `value` if it is a `Cluster`, or raise `ValueError`."""
    if not isinstance(value, Cluster):
        raise ValueError(
            f"cluster={value!r} is not a Cluster; use e.g. Cluster(8, slots_per_gpu=9)"
        )
    return value


def check_groups(num_groups: int, num_experts: int) -> int:
    """Return `num_groups` as an int that divides `num_experts`, or raise `ValueError`."""
    groups = positive_int("num_groups", num_groups)
    divisor("num_groups", groups, "num_experts", num_experts)
    return groups
