"""Where every expert lives."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.arrays import Float, Int, Rewrap, check_load, read_only, to_numpy, within_range
from evenload.checks import one_of, positive_int, whole_number
from evenload.cluster import DOMAINS, Cluster, check_cluster
from evenload.dispatch import (
    BY_PLACE,
    DISPATCHES,
    Chosen,
    check_tokens_from,
    dealt_out,
    near_replicas,
    parts_by_place,
)
from evenload.maps import EMPTY, NOTHING, check_map, check_split, slots_by_rank, slots_of_experts
from evenload.threads import spread

if TYPE_CHECKING:
    from evenload.io import AnyPath

NO_SPLIT = np.empty((0, 0, 0)), np.empty((0, 0, 0), np.int64)  # weights and slots where it is even


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Placement:
    """The expert in every slot of every layer.

    Immutable: arrays that it hands out are read-only, and tensors are copies. A number that is no
    expert, an expert without a slot and what else breaks a rule below are a `ValueError`.

    Parameters
    ----------
    physical_to_logical : integer array_like or torch.Tensor, [L, S] or [S]
        Expert in each slot, -1 in every slot of a GPU that is not alive; GPU g has the slots from
        ``cluster.first_slot[g]`` up to ``cluster.first_slot[g + 1]``. Copied.
    cluster : Cluster
    num_experts : int
        Logical experts E of a layer; each needs at least one slot.
    replica_rank : integer array_like, [L, S], optional
        Which replica of its expert a slot is, from 0; it orders the last axis of
        `logical_to_physical`. Default: by slot.
    """

    cluster: Cluster
    num_experts: int
    rows: Int  # [L, S], and how often each expert is in them, [L, E]: NumPy, read-only
    counts: Int
    _rewrap: Rewrap

    def __init__(
        self,
        physical_to_logical: Any,
        cluster: Cluster,
        num_experts: int,
        *,
        replica_rank: Any = None,
    ) -> None:
        experts = positive_int("num_experts", num_experts)
        array, rewrap = to_numpy("physical_to_logical", physical_to_logical)
        rows, counts = check_map(array, check_cluster(cluster), experts)
        fields = cluster, experts, rows, counts, rewrap
        self.__dict__.update(zip(self.__dataclass_fields__, fields, strict=True))
        if replica_rank is not None:
            self.__dict__["_inverse"] = slots_by_rank(rows, counts, replica_rank)

    @classmethod
    def trivial(cls, num_layers: int, num_experts: int, cluster: Cluster) -> Placement:
        """Return what an engine starts with: living slot s holds expert ``s % num_experts``."""
        layers, experts = positive_int("num_layers", num_layers), num_experts
        check_cluster(cluster).check_holds(positive_int("num_experts", experts))
        row = np.full(cluster.num_slots, EMPTY)
        row[cluster.living_slot] = np.arange(cluster.num_living_slots) % experts
        return cls(np.tile(row, (layers, 1)), cluster, experts)

    @classmethod
    def load(cls, path: AnyPath, **shape: Any) -> Placement:
        """Read a file of ours or of an engine, as `evenload.io.read_placement`, errors included.

        `shape` are ``num_gpus``, ``num_nodes`` and ``num_experts``, for files that do not say them.
        """
        from evenload.io import read_placement

        return read_placement(path, **shape)

    def save(self, path: AnyPath, **how: Any) -> tuple[str, ...]:
        """Write it, as `evenload.io.write_placement`; arguments, returns and errors as there."""
        from evenload.io import write_placement

        return write_placement(path, self, **how)

    def rewrapped(self, rewrap: Rewrap) -> Placement:
        """Return the same placement, its arrays brought to the kind that `rewrap` makes."""
        other = object.__new__(Placement)
        other.__dict__.update(self.__dict__, _rewrap=rewrap)
        return other

    @property
    def num_layers(self) -> int:
        """Layers L."""
        return len(self.rows)

    @property
    def num_slots(self) -> int:
        """Slots S of a layer."""
        return self.cluster.num_slots

    @property
    def physical_to_logical(self) -> Any:
        """Expert in each slot, -1 on GPUs that are not alive, int64 [L, S]."""
        return self._rewrap(self.rows.view())

    @property
    def replica_count(self) -> Any:
        """Slots of each expert, int64 [L, E]."""
        return self._rewrap(self.counts.view())

    @property
    def logical_to_physical(self) -> Any:
        """Slots of each expert, int64 [L, E, X], X the largest replica count, padded with -1."""
        return self._rewrap(self._inverse.view())

    @cached_property
    def _inverse(self) -> Int:
        return slots_of_experts(self.rows, self.counts)

    def check_load(self, load: Any, name: str = "load") -> tuple[Float, Rewrap]:
        """Validate a load for this placement, see `arrays.check_load`."""
        checked, rewrap = check_load(load, name)
        expected = (self.num_layers, self.num_experts)
        if checked.shape != expected:
            raise ValueError(
                f"{name} has shape {checked.shape}, and the placement is for [layers, experts] "
                f"{expected}; use a load of that shape"
            )
        return checked, rewrap

    @cached_property
    def _near(self) -> Chosen:
        return near_replicas(self._inverse, self.cluster)

    @cached_property
    def _dealt(self) -> Chosen:
        return dealt_out(self._near)

    def weights(self, load: Float, dispatch: str, tokens_from: Float | None = None) -> Float | None:
        """Return what part of its expert's tokens each replica gets, [L, E, X]; None for evenly.

        `load` was checked before, and so were the others, see `gpu_load`.
        """
        if dispatch in ("live", "copy"):
            return self._best_split(load)
        if dispatch not in BY_PLACE:
            return None
        chosen = self._dealt if dispatch == "static" else self._near
        return parts_by_place(chosen, self._inverse, self.cluster, tokens_from)

    def evaluate(self, load: Float, weights: Float | None = None) -> tuple[Float, Float]:
        """Return the load of each GPU [L, G] and the balancedness [L] for a load checked before.

        `weights` are as `weights` returns them.
        """
        from evenload.core.evaluate import evaluate

        given, slots = NO_SPLIT if weights is None else (weights, self._inverse)
        cluster = self.cluster
        result = np.empty((len(load), cluster.num_gpus)), np.empty(len(load))
        gpus = cluster.first_slot, cluster.capacity
        evaluate(load, self.rows, self.counts, given, slots, *gpus, *result)
        return result

    def _evaluated(
        self, load: Float, split: Any, dispatch: str | None, tokens_from: Any
    ) -> tuple[Float, Float]:
        """Check how tokens are shared, see `gpu_load`, and evaluate."""
        if split is None:
            word = one_of("dispatch", "even" if dispatch is None else dispatch, DISPATCHES)
            tokens = check_tokens_from(tokens_from, word, self.cluster)
            return self.evaluate(load, self.weights(load, word, tokens))
        for name, value in (("dispatch", dispatch), ("tokens_from", tokens_from)):
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} and a split were given, and the split says already what "
                    f"each replica gets; leave one of them out"
                )
        return self.evaluate(load, check_split(split, self._inverse))

    def gpu_load(
        self,
        load: Any,
        split: Any = None,
        *,
        dispatch: str | None = None,
        tokens_from: Any = None,
    ) -> Any:
        """Return the load of each GPU in the unit of `load`: float64 [L, G].

        Parameters
        ----------
        load : array_like or torch.Tensor, [L, E], or [E] for one layer
            Tokens routed to each expert.
        split : array_like or torch.Tensor, [L, E, X], optional
            Part of its expert's tokens that each replica gets, in the order of
            `logical_to_physical`. Each expert's weights add up to 1 within 1e-6, and are divided by
            their sum. Instead of a dispatch.
        dispatch : {"even", "live", "nearest", "static"}, optional
            How a replica is picked for a token, see `evenload.dispatch`. ``"live"`` is `split` of
            this load. Default: ``"even"``.
        tokens_from : array_like or torch.Tensor, [G], optional
            For ``"nearest"`` and ``"static"``: how many tokens start on each GPU, or anything
            proportional; 0 on those that are not alive. Default: equally many on each.

        Raises
        ------
        ValueError
            For a load or split that is not of this placement, both a split and a dispatch, an
            unknown dispatch, or tokens that are not one for each GPU.
        """
        checked, rewrap = self.check_load(load)
        return rewrap(self._evaluated(checked, split, dispatch, tokens_from)[0])

    def balancedness(
        self,
        load: Any,
        split: Any = None,
        *,
        dispatch: str | None = None,
        tokens_from: Any = None,
    ) -> Any:
        """Return mean / max GPU load of each layer, float64 [L] in (0, 1]; 1 where all is zero.

        On GPUs of different speed: the time that the layer would take if its load could be divided
        at will, over the time of the slowest GPU. Parameters and errors as `gpu_load`.
        """
        checked, rewrap = self.check_load(load)
        return rewrap(self._evaluated(within_range(checked), split, dispatch, tokens_from)[1])

    def split(self, load: Any) -> Any:
        """Divide each expert's tokens among its replicas so that the slowest GPU is fastest.

        Returns float64 [L, E, X]: the part of its expert's tokens that each replica gets, in the
        order of `logical_to_physical`, 0 where that is padded. Each expert's add up to 1. The load
        is as for `gpu_load`; the same one gives the same bytes on every machine.

        No other split lets a layer's heaviest GPU, in tokens over speed, be done sooner (by more
        than rounding, 1e-12 of it). Of many that are as good this is one near the even split: it
        starts from that, and where a GPU cannot take all of it in the least time the rest goes to
        others the shortest way, one expert giving room to the next. An expert that this does not
        touch, or without load, keeps even weights.

        Notes
        -----
        What SGLang's LP dispatch and DeepSeek's LPLB solve by a linear program for every batch,
        here exactly, by a few maximum flows (see `core.split`), for a load known beforehand.

        Examples
        --------
        >>> place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
        >>> place.balancedness([[4, 2, 6]])
        array([0.75])
        >>> split = place.split([[4, 2, 6]])
        >>> split.round(9).tolist()
        [[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]
        >>> place.balancedness([[4, 2, 6]], split)
        array([1.])
        """
        checked, rewrap = self.check_load(load)
        return rewrap(self._best_split(checked))

    def _best_split(self, load: Float) -> Float:
        from evenload.core.split import split

        slots, cluster = self._inverse, self.cluster
        weights = np.empty(slots.shape)

        def run(first: int, end: int) -> None:
            rows = slice(first, end)
            split(load[rows], slots[rows], cluster.gpu_of_slot, cluster.capacity, weights[rows])

        spread(len(load), self.rows.size, run)
        return weights

    @property
    def duplicates(self) -> Any:
        """Slots of each layer wasted on an expert that its GPU holds already, int64 [L]."""
        return self._rewrap(self.cluster.num_living_slots - self.arrivals(None))

    def survives(self, what: str = "gpu", count: int = 1) -> bool:
        """Tell whether every expert keeps a copy when any `count` GPUs or nodes die at once.

        `what` is ``"gpu"`` or ``"node"``; GPUs that are dead already hold none.
        """
        by_node = one_of("what", what, DOMAINS) == "node"
        number = positive_int("count", count)
        held = self._held()
        if by_node:
            held = held.reshape(*held.shape[:2], self.cluster.num_nodes, -1).any(axis=3)
        return bool((held.sum(axis=2) > number).all())

    def lost_with(self, gpus: Iterable[int]) -> Any:
        """Tell which experts have no copy left when some GPUs die at once: bool [L, E].

        `gpus` are their numbers; those of node n are
        ``range(n * cluster.gpus_per_node, (n + 1) * cluster.gpus_per_node)``.

        Examples
        --------
        >>> place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
        >>> place.lost_with([0])
        array([[False,  True, False]])
        """
        last = self.cluster.num_gpus - 1
        if not isinstance(gpus, Iterable):
            raise ValueError(f"gpus={gpus!r} is not a collection of GPU numbers; use e.g. [0]")
        dead = [whole_number("gpus", g, most=last) for g in gpus]
        return self._rewrap(~np.delete(self._held(), dead, axis=2).any(axis=2))

    def _held(self) -> Any:
        """Whether each GPU holds each expert: bool [L, E, G]."""
        held = np.zeros((self.num_layers, self.num_experts, self.cluster.num_gpus), np.bool_)
        living = self.cluster.living_slot
        layer = np.arange(self.num_layers)[:, None]
        held[layer, self.rows[:, living], self.cluster.gpu_of_slot[living]] = True
        return held

    def arrivals(self, before: Placement | None) -> Int:
        """Count the experts that are new to their GPU, int64 [L], whatever GPUs there were before.

        GPU g is GPU g in both; one that came held nothing, as all did for None.
        """
        from evenload.core.evaluate import count_arrivals

        rows, first = (NOTHING, np.zeros(1, np.int64))
        if before is not None:
            rows, first = before.rows, before.cluster.first_slot
        ends = self.cluster.first_slot
        first = first[np.minimum(np.arange(ends.size), first.size - 1)]
        count = np.empty(self.num_layers, np.int64)
        count_arrivals(rows, first, self.rows, ends, self.num_experts, count)
        return count

    def moves_from(self, other: Placement) -> Any:
        """Count the experts that must cross a link to come here from `other`, int64 [L].

        A move is a (layer, GPU, expert) present here and absent in `other`; an expert that changes
        its slot inside one GPU is none. One of other layers, experts or number of GPUs is a
        `ValueError`.
        """
        check_gpus(other, self, "other")
        return self._rewrap(self.arrivals(other))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for value in state.values():
            if isinstance(value, np.ndarray):
                read_only(value)  # arrays come back from a copy or a pickle writable

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Placement):
            return NotImplemented
        same = (self.cluster, self.num_experts) == (other.cluster, other.num_experts)
        return same and np.array_equal(self.rows, other.rows)

    def __hash__(self) -> int:
        return hash((self.cluster, self.num_experts, self.rows.tobytes()))

    def __repr__(self) -> str:
        return (
            f"<Placement: {self.num_layers} layers, {self.num_experts} experts in "
            f"{self.num_slots} slots on {self.cluster.num_gpus} GPUs "
            f"({self.cluster.num_nodes} nodes), {int(np.sum(self.counts > 1))} experts replicated>"
        )


def check_placement(value: Any, name: str = "placement") -> Placement:
    """Return `value` if it is a `Placement`, or raise `ValueError`."""
    if not isinstance(value, Placement):
        raise ValueError(
            f"{name}={reprlib.repr(value)} is not a Placement; use e.g. "
            "Placement(physical_to_logical, cluster, num_experts)"
        )
    return value


def check_model(value: Any, like: Any, name: str) -> None:
    """Raise `ValueError` unless `value` is a placement of the layers and experts of `like`."""
    check_placement(value, name)
    has = (value.num_layers, value.num_experts)
    wanted = (like.num_layers, like.num_experts)
    if has != wanted:
        raise ValueError(
            f"{name} has (layers, experts) = {has}, and {wanted} are wanted; use a placement of "
            "that model"
        )


def check_gpus(placement: Any, like: Any, name: str) -> None:
    """Raise `ValueError` unless `placement` has the layers, experts and GPUs that `like` has."""
    check_model(placement, like, name)
    there, wanted = placement.cluster.num_gpus, like.cluster.num_gpus
    if there != wanted:
        raise ValueError(
            f"{name} is on num_gpus={there}, and {wanted} are wanted; use a placement on as many "
            "GPUs"
        )


def check_same(placement: Any, like: Any, name: str) -> None:
    """Raise `ValueError` unless `placement` has the layers, experts and cluster that `like` has."""
    check_model(placement, like, name)
    if placement.cluster != like.cluster:
        raise ValueError(
            f"{name} is on {placement.cluster}, and {like.cluster} is wanted; use a placement on "
            "that cluster"
        )
