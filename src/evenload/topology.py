"""How strictly a group of experts is kept on one node."""

from __future__ import annotations

from typing import Any

from evenload.cluster import Cluster

TOPOLOGIES = ("strict", "prefer", "ignore")


def keeps_groups(num_groups: int, num_experts: int, cluster: Cluster) -> bool:
    """Whether the groups can be dealt out evenly to nodes that have room for them."""
    nodes = cluster.living_by_node
    if num_groups % len(nodes):
        return False
    return _least_room(cluster) >= num_experts // len(nodes)


def _least_room(cluster: Cluster) -> int:
    return min(sum(cluster.slots[g] for g in gpus) for gpus in cluster.living_by_node)


def check_topology(topology: Any, num_groups: int, num_experts: int, cluster: Cluster) -> str:
    """Return the topology that a problem is solved under.

    Parameters
    ----------
    topology : {"strict", "prefer", "ignore"} or None
        None is strict where that can be met, and else ignores the groups: DeepSeek EPLB's rule.
    num_groups, num_experts : int
    cluster : Cluster

    Raises
    ------
    ValueError
        For any other word, or ``"strict"`` where the groups do not divide over the nodes or a
        node has too few living slots for its share of them.
    """
    if topology is None:
        strict = num_groups > 1 and keeps_groups(num_groups, num_experts, cluster)
        return "strict" if strict else "ignore"
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology={topology!r} is unknown; use one of: {', '.join(TOPOLOGIES)}")
    if topology == "strict":
        _check_strict(num_groups, num_experts, cluster)
    return str(topology)


def _check_strict(num_groups: int, num_experts: int, cluster: Cluster) -> None:
    nodes = len(cluster.living_by_node)
    if num_groups % nodes:
        below, above = num_groups // nodes * nodes, (num_groups // nodes + 1) * nodes
        use = f"{below} or {above}" if below else f"{above}"
        dead = f" ({cluster.num_nodes - nodes} more have no living GPU)"
        raise ValueError(
            f"topology='strict': num_groups={num_groups} does not divide over {nodes} nodes"
            f"{dead if nodes < cluster.num_nodes else ''}; use {use} groups, or topology 'prefer' "
            "or 'ignore'"
        )
    need, room = num_experts // nodes, _least_room(cluster)
    if room < need:
        raise ValueError(
            f"topology='strict': a node has {room} living slots for the {need} experts of its "
            f"groups; use {need - room} or more slots more there, or topology 'prefer' or 'ignore'"
        )
