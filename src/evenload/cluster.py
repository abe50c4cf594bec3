"""The GPUs that experts are placed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, Int, read_only
from evenload.checks import divisor, multiple, positive_int, positive_real, whole_number

DOMAINS = ("gpu", "node")  # what may die as a whole
MOST_GPUS = 2**16  # far past any group; each takes room in every list of GPUs
MOST_SLOTS = 2**20  # of a layer
MOST_SPEED_RATIO = 1000.0  # a GPU slower than that is worth no expert, and sums stay exact


@dataclass(frozen=True, init=False)
class Cluster:
    """GPUs of one expert-parallel group, and the slots that each has in every layer.

    Slots are numbered GPU by GPU: where all GPUs have the same number, slot s lives on GPU
    ``s // slots_per_gpu``. GPU g is on node ``g // gpus_per_node``. What breaks a rule below is a
    `ValueError`.

    Parameters
    ----------
    num_gpus : int
        GPUs (ranks) of the group; a multiple of `num_nodes`, at most 65,536.
    num_nodes : int, default 1
        Nodes; links are fast inside a node and slow between nodes.
    slots_per_gpu : int, optional
        Experts that every GPU holds in each layer. Give this, `num_slots` or `slots`; a layer has
        1,048,576 slots at most.
    num_slots : int, optional
        Slots of a layer over all GPUs, one each at least; where they do not divide, the first GPUs
        have one more.
    slots : sequence of int, [G], optional
        Slots of each GPU.
    speed : sequence of float, [G], optional
        Tokens that each GPU computes in a unit of time: one twice as fast may carry twice the
        load. Only their ratios matter, at most 1000 between living GPUs; all become 1 where they
        are alike. Default: all alike.
    alive : sequence of bool, [G], optional
        False for a GPU that is gone: its slots keep their numbers and hold nothing. Default: all
        alive; one has to be.

    Examples
    --------
    >>> Cluster(32, num_nodes=4, num_slots=288)
    Cluster(num_gpus=32, num_nodes=4, slots_per_gpu=9)
    >>> Cluster(3, slots_per_gpu=4, speed=[1, 1, 2], alive=[True, False, True])
    Cluster(num_gpus=3, num_nodes=1, slots_per_gpu=4, speed=(1.0, 1.0, 2.0), \
alive=(True, False, True))
    """

    num_gpus: int
    num_nodes: int
    slots: tuple[int, ...]
    speed: tuple[float, ...]
    alive: tuple[bool, ...]

    def __init__(
        self,
        num_gpus: int,
        num_nodes: int = 1,
        slots_per_gpu: int | None = None,
        *,
        num_slots: int | None = None,
        slots: Sequence[int] | None = None,
        speed: Sequence[float] | None = None,
        alive: Sequence[bool] | None = None,
    ) -> None:
        gpus = whole_number("num_gpus", num_gpus, 1, MOST_GPUS)
        nodes = positive_int("num_nodes", num_nodes)
        multiple("num_gpus", gpus, "num_nodes", nodes)
        choices = {"slots_per_gpu": slots_per_gpu, "num_slots": num_slots, "slots": slots}
        given = [name for name, value in choices.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"{', '.join(choices)}: {' and '.join(given) or 'none'} given; give exactly one"
            )
        if slots is not None:
            each = tuple(positive_int(*entry) for entry in _one_for_each("slots", slots, gpus))
            whole_number("the sum of slots", sum(each), 1, MOST_SLOTS)
        elif num_slots is not None:
            each = _spread_evenly(num_slots, gpus)
        else:
            each = (whole_number("slots_per_gpu", slots_per_gpu, 1, MOST_SLOTS // gpus),) * gpus
        living = _check_alive(alive, gpus)
        fields = gpus, nodes, each, _check_speed(speed, living), living
        self.__dict__.update(zip(self.__dataclass_fields__, fields, strict=True))

    @classmethod
    def smallest_for(cls, num_experts: int, num_gpus: int, num_nodes: int = 1) -> Cluster:
        """Return the cluster with the fewest slots, as many on each GPU, that hold every expert."""
        gpus = whole_number("num_gpus", num_gpus, 1, MOST_GPUS)
        experts = positive_int("num_experts", num_experts)
        return cls(gpus, num_nodes, slots_per_gpu=-(-experts // gpus))

    @property
    def slots_per_gpu(self) -> int:
        """Slots of every GPU, or `ValueError` if GPUs have different numbers of slots."""
        if len(set(self.slots)) > 1:
            raise ValueError(
                f"slots_per_gpu: the GPUs have from {min(self.slots)} to {max(self.slots)} slots; "
                "use slots, which has one number for each"
            )
        return self.slots[0]

    @cached_property
    def num_slots(self) -> int:
        """Slots of a layer over all GPUs, those of dead ones included."""
        return sum(self.slots)

    @cached_property
    def num_living_slots(self) -> int:
        """Slots of a layer that can hold an expert."""
        return sum(self.slots[g] for g in self.living_gpus)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node, dead ones included."""
        return self.num_gpus // self.num_nodes

    @cached_property
    def all_alive(self) -> bool:
        """Whether no GPU is gone."""
        return all(self.alive)

    @cached_property
    def gpus_are_equal(self) -> bool:
        """Whether the living GPUs have one speed and one number of slots."""
        return len({(self.slots[g], self.speed[g]) for g in self.living_gpus}) == 1

    @cached_property
    def living_by_node(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the living GPUs of each node that has any."""
        nodes: dict[int, list[int]] = {}
        for g in self.living_gpus:
            nodes.setdefault(g // self.gpus_per_node, []).append(g)
        return tuple(tuple(gpus) for gpus in nodes.values())

    @cached_property
    def nodes_are_equal(self) -> bool:
        """Whether the nodes with living GPUs have as many of them each."""
        return len({len(gpus) for gpus in self.living_by_node}) == 1

    def only(self, gpus: Sequence[int], num_nodes: int = 1) -> Cluster:
        """Return the cluster of some of the GPUs, in the order given, on `num_nodes` nodes."""
        return Cluster(
            len(gpus),
            num_nodes,
            slots=[self.slots[g] for g in gpus],
            speed=[self.speed[g] for g in gpus],
            alive=[self.alive[g] for g in gpus],
        )

    @cached_property
    def living_gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs that are alive, ascending."""
        return tuple(g for g in range(self.num_gpus) if self.alive[g])

    @cached_property
    def living(self) -> Cluster:
        """The cluster of the living GPUs alone."""
        return self if self.all_alive else self.only(self.living_gpus)

    @cached_property
    def first_slot(self) -> Int:
        """Where each GPU's slots begin, and where the last one's end: int64 [G + 1], read-only."""
        return read_only(np.concatenate(([0], np.cumsum(self.slots, dtype=np.int64))))

    @cached_property
    def gpu_of_slot(self) -> Int:
        """GPU of each slot: int64 [S], read-only."""
        return read_only(np.repeat(np.arange(self.num_gpus), self.slots))

    @cached_property
    def node_of_gpu(self) -> Int:
        """Node of each GPU: int64 [G], read-only."""
        return read_only(np.arange(self.num_gpus) // self.gpus_per_node)

    @cached_property
    def living_slot(self) -> NDArray[np.bool_]:
        """Whether each slot can hold an expert: bool [S], read-only."""
        return read_only(np.repeat(np.array(self.alive), np.array(self.slots)))

    @cached_property
    def capacity(self) -> Float:
        """Speed of each GPU relative to the fastest, 0 for dead ones: float64 [G], read-only."""
        speed = np.array(self.speed) * np.array(self.alive)
        return read_only(speed / speed.max())

    def check_holds(self, num_experts: int, name: str = "num_slots", step: int = 1) -> None:
        """Raise `ValueError` unless every expert gets a slot.

        `name` is the caller's word for the number of slots, a multiple of `step`.
        """
        if self.num_living_slots >= num_experts:
            return
        if not self.all_alive:
            missing = num_experts - self.num_living_slots
            raise ValueError(
                f"{name}: the {len(self.living_gpus)} living of {self.num_gpus} GPUs have "
                f"{self.num_living_slots} slots for num_experts={num_experts}, and every expert "
                f"needs one; use {missing} or more slots more on them"
            )
        fewest = -(-num_experts // step) * step
        raise ValueError(
            f"{name}={self.num_slots} is fewer than num_experts={num_experts}, and every "
            f"expert needs a slot; use {fewest} or more"
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make this cluster, without those at their default."""
        equal = len(set(self.slots)) == 1
        slots = {"slots_per_gpu": self.slots[0]} if equal else {"slots": self.slots}
        speed = {"speed": self.speed} if len(set(self.speed)) > 1 else {}
        alive = {} if self.all_alive else {"alive": self.alive}
        return {"num_gpus": self.num_gpus, "num_nodes": self.num_nodes} | slots | speed | alive

    def __repr__(self) -> str:
        return f"Cluster({', '.join(f'{name}={value}' for name, value in self.arguments.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def check_cluster(value: Any) -> Cluster:
    """Return `value` if it is a `Cluster`, or raise `ValueError`."""
    if not isinstance(value, Cluster):
        raise ValueError(
            f"cluster={value!r} is not a Cluster; use e.g. Cluster(8, slots_per_gpu=9)"
        )
    return value


def check_groups(num_groups: int, num_experts: int) -> int:
    """Return `num_groups` as an int that divides `num_experts`, or raise `ValueError`."""
    return divisor("num_groups", num_groups, "num_experts", num_experts)


def _one_for_each(name: str, value: Any, num_gpus: int) -> list[tuple[str, Any]]:
    """Pair the entry of each GPU with its name, as ``speed[2]``."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise ValueError(f"{name}={value!r} is not a sequence; use one entry for each GPU")
    entries = np.atleast_1d(value) if isinstance(value, np.ndarray) else value
    if len(entries) != num_gpus:
        raise ValueError(
            f"{name} has {len(entries)} entries for num_gpus={num_gpus}; use {num_gpus}"
        )
    return [(f"{name}[{g}]", entry) for g, entry in enumerate(entries)]


def _spread_evenly(num_slots: Any, num_gpus: int) -> tuple[int, ...]:
    total = whole_number("num_slots", num_slots, 1, MOST_SLOTS)
    if total < num_gpus:
        raise ValueError(
            f"num_slots={total} is fewer than num_gpus={num_gpus}, and every GPU has one at "
            f"least; use {num_gpus}"
        )
    each, more = divmod(total, num_gpus)
    return (each + 1,) * more + (each,) * (num_gpus - more)


def _check_speed(speed: Any, alive: tuple[bool, ...]) -> tuple[float, ...]:
    if speed is None:
        return (1.0,) * len(alive)
    floats = tuple(positive_real(*entry) for entry in _one_for_each("speed", speed, len(alive)))
    if len(set(floats)) == 1:
        return (1.0,) * len(alive)  # only ratios matter, and so equal clusters compare equal
    living = [g for g in range(len(alive)) if alive[g]]
    slowest, fastest = min(living, key=floats.__getitem__), max(floats[g] for g in living)
    if floats[slowest] * MOST_SPEED_RATIO < fastest:
        raise ValueError(
            f"speed[{slowest}]={floats[slowest]} is less than 1/{MOST_SPEED_RATIO:.0f} of the "
            f"fastest GPU's {fastest}; use {fastest / MOST_SPEED_RATIO} or more, or alive=False"
        )
    return floats


def _check_alive(alive: Any, num_gpus: int) -> tuple[bool, ...]:
    if alive is None:
        return (True,) * num_gpus
    for name, value in (entries := _one_for_each("alive", alive, num_gpus)):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}={value!r} is not a bool; use True or False")
    if not any(value for _, value in entries):
        raise ValueError(f"alive: all {num_gpus} GPUs are dead; use True for 1 or more")
    return tuple(bool(value) for _, value in entries)
