"""What a solver is given: a load, the cluster, and the groups that share a node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, Rewrap, check_load, keep_numpy, within_range
from evenload.checks import not_negative, one_of
from evenload.cluster import Cluster, check_cluster, check_groups
from evenload.dispatch import SLACK, check_dispatch
from evenload.placement import Placement

TOPOLOGIES = ("strict", "prefer", "ignore")
CROSS_NODE_PRICE = 1.0


@dataclass(frozen=True)
class Problem:
    """One load to be placed on one cluster, already validated; names are as in `evenload.solve`."""

    load: Float  #: [L, E], C-contiguous, read only; times a power of two where it was far from 1
    cluster: Cluster
    num_groups: int = 1
    topology: str = "ignore"
    cross_node_price: float = CROSS_NODE_PRICE
    rewrap: Rewrap = keep_numpy  #: brings results to the kind of array that the load came as
    current: Placement | None = None  #: what runs now; its cluster may have other GPUs
    samples: Float | None = None  #: [M, L, E], loads to come, each layer of each adding up to 1
    sample_weight: Float | None = None  #: [M], how likely each sample is
    dispatch: str = "even"  #: how a replica is picked for a token, see `evenload.dispatch`
    live_share: float = 1.0  #: part of the time with the live split, even sharing in the rest
    tokens_from: Float | None = None  #: [G], how many tokens start on each GPU; None is equal
    copy_slack: float = SLACK  #: what copying leaves above each GPU's part, see `evenload.copying`

    @classmethod
    def build(
        cls,
        load: Any,
        cluster: Cluster,
        num_groups: int = 1,
        topology: str | None = None,
        cross_node_price: float = CROSS_NODE_PRICE,
        *,
        dispatch: str = "even",
        live_share: float = 1.0,
        tokens_from: Any = None,
        copy_slack: float = SLACK,
        load_name: str = "load",
        slots_name: str = "num_slots",
        slots_step: int = 1,
    ) -> Problem:
        """Validate the parts together, as `evenload.solve` says, or raise `ValueError`.

        `load_name` and `slots_name` are the caller's words for two, and `slots_step` is what the
        number of slots has to be a multiple of. A topology of None is strict where that can be met,
        and else ignores the groups: DeepSeek EPLB's rule.
        """
        checked, rewrap = check_load(load, load_name)
        num_experts = checked.shape[1]
        check_cluster(cluster).check_holds(num_experts, slots_name, slots_step)
        groups = check_groups(num_groups, num_experts)
        if topology is None:
            strict = groups > 1 and not _why_not_strict(groups, num_experts, cluster)
            topology = "strict" if strict else "ignore"
        elif one_of("topology", topology, TOPOLOGIES) == "strict" and (
            why := _why_not_strict(groups, num_experts, cluster)
        ):
            raise ValueError(f"topology='strict': {why}, or topology 'prefer' or 'ignore'")
        price = not_negative("cross_node_price", cross_node_price)
        if price != CROSS_NODE_PRICE and topology != "prefer":
            raise ValueError(
                f"cross_node_price={price} is for topology 'prefer', and the topology is "
                f"{topology!r}; use topology 'prefer', or a price of {CROSS_NODE_PRICE}"
            )
        word, share, tokens, slack = check_dispatch(
            dispatch, live_share, tokens_from, copy_slack, cluster
        )
        if topology == "prefer" and word != "even":
            raise ValueError(
                f"topology='prefer' is beyond dispatch={word!r}; use topology 'strict' or "
                "'ignore', or dispatch 'even'"
            )
        return cls(
            within_range(checked),
            cluster,
            groups,
            topology,
            price,
            rewrap,
            dispatch=word,
            live_share=share,
            tokens_from=tokens,
            copy_slack=slack,
        )

    def layers(self, layers: Int) -> Problem:
        """Return the same problem for some of its layers only, without what runs now."""
        samples = None if self.samples is None else self.samples[:, layers]
        return replace(self, load=self.load[layers], samples=samples, current=None)

    @property
    def alone(self) -> Problem:
        """The same problem for its load alone, planned from scratch."""
        return replace(self, current=None, samples=None, sample_weight=None)

    @property
    def dispatches(self) -> tuple[tuple[str, float], ...]:
        """Each dispatch that counts, with its part of the time; these add up to 1."""
        if self.live_share == 1.0:
            return ((self.dispatch, 1.0),)
        return (("live", self.live_share), ("even", 1.0 - self.live_share))

    @property
    def sharing(self) -> dict[str, Any]:
        """What `build` is told of how tokens are shared, by its names."""
        names = ("dispatch", "live_share", "tokens_from")
        return {name: getattr(self, name) for name in names}

    def mixed(self, balancedness: list[Float]) -> Float:
        """Return the balancedness [L] over all the time, from that under each of `dispatches`."""
        if len(balancedness) == 1:
            return balancedness[0]
        parts = zip(self.dispatches, balancedness, strict=True)
        return np.asarray(1.0 / sum(share / reached for (_, share), reached in parts))

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


def _why_not_strict(num_groups: int, num_experts: int, cluster: Cluster) -> str:
    """Say what keeps the groups from being dealt out to nodes with room; empty where nothing."""
    nodes = len(cluster.living_by_node)
    if num_groups % nodes:
        below, above = num_groups // nodes * nodes, (num_groups // nodes + 1) * nodes
        gone = cluster.num_nodes - nodes
        return (
            f"num_groups={num_groups} does not divide over {nodes} nodes"
            f"{f' ({gone} more have no living GPU)' if gone else ''}; "
            f"use {f'{below} or ' if below else ''}{above} groups"
        )
    need = num_experts // nodes
    room = min(sum(cluster.slots[g] for g in gpus) for gpus in cluster.living_by_node)
    if room < need:
        return (
            f"a node has {room} living slots for the {need} experts of its groups; "
            f"use {need - room} or more slots more there"
        )
    return ""
