"""The figures of one placement on one load, computed once for table, picture and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import check_groups
from evenload.placement import Placement
from evenload.plan import straggler_time
from evenload.traffic import away_share, nodes_per_token

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Spot:
    """One GPU in one layer.

    Parameters
    ----------
    layer, gpu : int
    tokens : float
        Its load, in the unit of the load.
    relative : float
        Its load over the layer's mean.
    """

    layer: int
    gpu: int
    tokens: float
    relative: float


@dataclass(frozen=True, eq=False)
class Summary:
    """What a placement does with a load.

    Parameters
    ----------
    name : str
        Head of its column, e.g. ``trivial``.
    solver : str or None
        The solver that made it, where one did.
    relative_load : float64 ndarray, [L, G]
        GPU load over the mean of its layer, both over speed where GPUs differ; 1 in a layer without
        load, NaN for a GPU that is gone.
    balancedness : float64 ndarray, [L]
        Mean over max GPU load.
    straggler_time : float
        Sum over layers of the heaviest GPU, over the sum of the means: 1 at best.
    heaviest, lightest : Spot
        The GPU with the largest and the smallest load relative to its layer's mean.
    duplicates, moves : int ndarray, [L]
        Slots wasted on an expert that its GPU has already; experts to move from the first of the
        placements that are compared.
    num_slots : int
        Slots of all layers, which is what `moves` is out of.
    split_balancedness : float64 ndarray, [L]
        Balancedness if each expert's tokens are shared among its replicas at best, unevenly where
        that helps.
    away_share : float64 ndarray, [L], or None
        Part of the load computed away from its group's home node, where there are groups and nodes.
    nodes_per_token : float64 ndarray, [L], or None
        Fewest distinct nodes that hold all experts of a token, mean over tokens, where routed
        experts are known and there are nodes.
    bound : float64 ndarray, [L], or None
        Balancedness that no placement can exceed where an expert's tokens are shared evenly among
        its replicas, where it was computed; an uneven split may exceed it.
    milliseconds : float or None
        Time that planning took.
    """

    name: str
    solver: str | None
    relative_load: Float
    balancedness: Float
    straggler_time: float
    heaviest: Spot
    lightest: Spot
    duplicates: Int
    moves: Int
    num_slots: int
    split_balancedness: Float
    away_share: Float | None = None
    nodes_per_token: Float | None = None
    bound: Float | None = None
    milliseconds: float | None = None

    @property
    def worst_layer(self) -> int:
        """The layer with the least balancedness, the first one on ties."""
        return int(self.balancedness.argmin())

    @property
    def gap(self) -> Float | None:
        """How far the balancedness is below its bound, [L], where a bound is known."""
        return None if self.bound is None else self.bound - self.balancedness


def _spot(relative: Float, gpu_load: Float, flat_index: int) -> Spot:
    layer, gpu = divmod(flat_index, relative.shape[1])
    return Spot(layer, gpu, float(gpu_load[layer, gpu]), float(relative[layer, gpu]))


def relative_load(gpu_load: Float, capacity: Float) -> Float:
    """Divide GPU loads by their layer's fair shares: [L, G] -> [L, G].

    1 in a layer without load, NaN for a GPU of capacity 0, which is gone.
    """
    fair = gpu_load.sum(axis=1, keepdims=True) * (capacity / capacity.sum())
    relative: Float = np.divide(gpu_load, fair, out=np.ones_like(gpu_load), where=fair > 0.0)
    relative[:, capacity == 0.0] = np.nan
    return relative


def summarise(
    name: str,
    placement: Placement,
    load: Any,
    *,
    start: Placement | None = None,
    solver: str | None = None,
    bound: Any = None,
    milliseconds: float | None = None,
    num_groups: int = 1,
    topk: Any = None,
) -> Summary:
    """Compute the figures of a placement on a load.

    Parameters
    ----------
    name : str
        Head of its column.
    placement : Placement
    load : array_like, [L, E]
        Tokens routed to each expert.
    start : Placement, optional
        What moves are counted from; default: the trivial placement.
    solver : str, optional
        The solver that made the placement.
    bound : array_like, [L], optional
        Proven upper limit on the balancedness.
    milliseconds : float, optional
        Time that planning took.
    num_groups : int, default 1
        Groups of experts that routing sends tokens to.
    topk : integer array_like, [tokens, L, k], optional
        Experts that each token was routed to.

    Raises
    ------
    ValueError
        If the load does not fit the placement, or is none, the groups do not divide the experts, or
        the routed experts are none of the placement.
    """
    check_groups(num_groups, placement.num_experts)
    gpu_load = np.asarray(placement.gpu_load(load))
    cluster, L = placement.cluster, placement.num_layers
    nodes = cluster.num_nodes > 1
    relative = relative_load(gpu_load, cluster.capacity)
    start = start or Placement.trivial(L, placement.num_experts, cluster)
    return Summary(
        name=name,
        solver=solver,
        relative_load=relative,
        balancedness=np.asarray(placement.balancedness(load)),
        straggler_time=straggler_time(gpu_load, cluster.capacity),
        heaviest=_spot(relative, gpu_load, int(np.nanargmax(relative))),
        lightest=_spot(relative, gpu_load, int(np.nanargmin(relative))),
        duplicates=np.asarray(placement.duplicates),
        moves=np.asarray(placement.moves_from(start)),
        num_slots=L * placement.num_slots,
        split_balancedness=np.asarray(placement.balancedness(load, placement.split(load))),
        away_share=away_share(placement, load, num_groups) if nodes and num_groups > 1 else None,
        nodes_per_token=nodes_per_token(placement, topk) if nodes and topk is not None else None,
        bound=None if bound is None else np.asarray(bound),
        milliseconds=milliseconds,
    )
