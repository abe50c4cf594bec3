"""What a solver is given: a load, the cluster, and the groups that share a node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Rewrap, check_load, keep_numpy, within_range
from evenload.checks import not_negative
from evenload.cluster import Cluster, check_cluster, check_groups
from evenload.placement import Placement
from evenload.topology import check_topology

CROSS_NODE_PRICE = 1.0


def _check_price(cross_node_price: Any, topology: str) -> float:
    price = not_negative("cross_node_price", cross_node_price)
    if price != CROSS_NODE_PRICE and topology != "prefer":
        raise ValueError(
            f"cross_node_price={price} is for topology 'prefer', and the topology is "
            f"{topology!r}; use topology 'prefer', or a price of {CROSS_NODE_PRICE}"
        )
    return price


@dataclass(frozen=True)
class Problem:
    """One load to be placed on one cluster, already validated.

    Parameters
    ----------
    load : float64 ndarray, [L, E], C-contiguous
        Tokens of each expert, times a power of two if they are near an end of float64's range;
        solvers read it only.
    cluster : Cluster
        Where the experts go.
    num_groups : int
        Groups of experts that routing keeps on one node; 1 where there are none.
    topology : {"strict", "prefer", "ignore"}
        How strictly a group is kept on one node.
    cross_node_price : float
        Under ``"prefer"``: what a token costs that is computed away from its group's home node, in
        tokens computed by a GPU.
    rewrap : callable
        Brings results to the kind of array that the load came as.
    current : Placement, optional
        What runs now, of the same layers and experts; its cluster may have other GPUs.
    samples : float64 ndarray, [M, L, E], optional
        Loads that the next window may have, each layer of each adding up to 1; None where the load
        is all that is known.
    sample_weight : float64 ndarray, [M], optional
        How likely each sample is.
    """

    load: NDArray[np.float64]
    cluster: Cluster
    num_groups: int = 1
    topology: str = "ignore"
    cross_node_price: float = CROSS_NODE_PRICE
    rewrap: Rewrap = keep_numpy
    current: Placement | None = None
    samples: NDArray[np.float64] | None = None
    sample_weight: NDArray[np.float64] | None = None

    @classmethod
    def build(
        cls,
        load: Any,
        cluster: Cluster,
        num_groups: int = 1,
        topology: str | None = None,
        cross_node_price: float = CROSS_NODE_PRICE,
        *,
        load_name: str = "load",
        slots_name: str = "num_slots",
        slots_step: int = 1,
    ) -> Problem:
        """Validate the parts together; `load_name`, `slots_name` are the caller's words for two.

        `slots_step` is what the caller's number of slots has to be a multiple of.

        Raises
        ------
        ValueError
            For an illegal load (see `load.check_load`), fewer slots than experts, a number of
            groups that does not divide the number of experts, a topology that is unknown or cannot
            be met (see `topology.check_topology`), a negative price, or one other than the default
            where the topology is not ``"prefer"``, which alone looks at it.
        """
        checked, rewrap = check_load(load, load_name)
        num_experts = checked.shape[1]
        check_cluster(cluster).check_holds(num_experts, slots_name, slots_step)
        groups = check_groups(num_groups, num_experts)
        how = check_topology(topology, groups, num_experts, cluster)
        price = _check_price(cross_node_price, how)
        return cls(within_range(checked), cluster, groups, how, price, rewrap)

    def layers(self, layers: NDArray[np.int64]) -> Problem:
        """Return the same problem for some of its layers only, without what runs now."""
        samples = None if self.samples is None else self.samples[:, layers]
        return replace(self, load=self.load[layers], samples=samples, current=None)

    @property
    def alone(self) -> Problem:
        """The same problem for its load alone, planned from scratch."""
        return replace(self, current=None, samples=None, sample_weight=None)

    @property
    def num_layers(self) -> int:
        """Layers of the load."""
        return len(self.load)

    @property
    def num_experts(self) -> int:
        """Logical experts of a layer."""
        return int(self.load.shape[1])

    @property
    def hierarchical(self) -> bool:
        """Whether every group has to stay on one node."""
        return self.topology == "strict" and self.num_groups > 1

    @property
    def keeps_groups(self) -> bool:
        """Whether there are several nodes to keep groups on."""
        return self.hierarchical and len(self.cluster.living_by_node) > 1
