"""What a solver is given: a load, the cluster, and the groups that share a node."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from evenload.arrays import Float, Int, Rewrap, check_load, keep_numpy, within_range
from evenload.checks import not_negative, one_of, positive_int
from evenload.cluster import DOMAINS, Cluster, check_cluster, check_groups
from evenload.cost.expert_time import ExpertTime
from evenload.dispatch import SLACK, check_dispatch
from evenload.phases import Phase, check_batches
from evenload.placement import Placement

Apart: TypeAlias = tuple[int, bool]
"""On how many GPUs every expert has to be at least, or on how many nodes, if that is true."""

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
    survive: tuple[str, int] | None = None  #: "gpu" or "node", and how many of them may die
    expert_time: ExpertTime | None = None  #: what an expert's tokens take; None counts tokens
    top_k: int = 1  #: experts that a token of `Phase.tokens_per_batch` goes to
    phases: tuple[Phase, ...] = ()  #: at least one: the batches that are planned for together
    sample_phase: Int | None = None  #: [M], the phase that each sample is of; None is the first

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
        survive: str | None = None,
        survive_count: int = 1,
        expert_time: Any = None,
        tokens_per_batch: Any = None,
        top_k: int = 1,
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
        dying = _check_survive(survive, survive_count)
        if dying is not None:
            _check_slots(dying, num_experts, cluster, slots_name, slots_step)
        groups = check_groups(num_groups, num_experts)
        if topology is None:
            strict = groups > 1 and not _why_not_strict(groups, num_experts, cluster, dying)
            topology = "strict" if strict else "ignore"
        elif one_of("topology", topology, TOPOLOGIES) == "strict" and (
            why := _why_not_strict(groups, num_experts, cluster, dying)
        ):
            other = "'prefer' or 'ignore'" if dying is None else "'ignore'"
            raise ValueError(f"topology='strict': {why}, or topology {other}")
        if topology == "prefer" and dying is not None:
            raise ValueError(
                f"topology='prefer' with survive={dying[0]!r} is not supported; use topology "
                "'strict' or 'ignore'"
            )
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
        curve, batch, k = check_batches(expert_time, tokens_per_batch, top_k, word, num_experts)
        if topology == "prefer" and curve is not None:
            raise ValueError(
                "topology='prefer' is beyond expert_time; use topology 'strict' or 'ignore', or "
                "leave expert_time out"
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
            survive=dying,
            expert_time=curve,
            top_k=k,
            phases=(Phase("", within_range(checked), 1.0, batch),),
        )

    @property
    def likely(self) -> tuple[Float, Float]:
        """Loads that the plan has to hold under, [M, L, E], and their weights [M]; or the load."""
        if self.samples is None or self.sample_weight is None:
            return self.load[None], np.ones(1)
        return self.samples, self.sample_weight

    def layers(self, layers: Int) -> Problem:
        """Return the same problem for some of its layers only, without what runs now."""
        samples = None if self.samples is None else self.samples[:, layers]
        phases = tuple(replace(phase, load=phase.load[layers]) for phase in self.phases)
        return replace(self, load=self.load[layers], samples=samples, phases=phases, current=None)

    @property
    def alone(self) -> Problem:
        """The same problem for its load alone, planned from scratch."""
        return replace(self, current=None, samples=None, sample_weight=None, sample_phase=None)

    def of_load(self, load: Float, phase: Phase | None = None) -> Problem:
        """Return the same problem for one load [L, E] alone, checked before, of a phase."""
        phases = (replace(phase or self.phases[0], load=load, weight=1.0),)
        return replace(self.alone, load=load, phases=phases, sample_phase=None)

    @property
    def dispatches(self) -> tuple[tuple[str, float], ...]:
        """Each dispatch that counts, with its part of the time; these add up to 1."""
        if self.live_share == 1.0:
            return ((self.dispatch, 1.0),)
        return (("live", self.live_share), ("even", 1.0 - self.live_share))

    @property
    def by_time(self) -> bool:
        """Whether a plan needs other sums than those of tokens.

        Not where time is in proportion to them, and not for a live split, which balances tokens.
        """
        curve, batches = self.expert_time, {phase.tokens_per_batch for phase in self.phases}
        if curve is None or self.dispatch != "even":
            return False
        return not curve.is_proportional or len(batches) > 1

    @property
    def sharing(self) -> dict[str, Any]:
        """What `build` is told of how tokens are shared and what they take, by its names."""
        names = ("dispatch", "live_share", "tokens_from", "copy_slack", "expert_time", "top_k")
        batch = self.phases[0].tokens_per_batch if self.phases else None
        return {name: getattr(self, name) for name in names} | {"tokens_per_batch": batch}

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
    def apart(self) -> Apart:
        """On how many GPUs every expert has to be; on how many nodes, if that is true."""
        what, count = self.survive or ("gpu", 0)
        return count + 1, what == "node"

    @property
    def hierarchical(self) -> bool:
        """Whether every group has to stay on one node."""
        return self.topology == "strict" and self.num_groups > 1

    @property
    def keeps_groups(self) -> bool:
        """Whether there are several nodes to keep groups on."""
        return self.hierarchical and len(self.cluster.living_by_node) > 1


def _check_survive(what: str | None, count: int) -> tuple[str, int] | None:
    """Return what may die, and how many of it at once; None for nothing."""
    number = positive_int("survive_count", count)
    if what is not None:
        return one_of("survive", what, DOMAINS), number
    if number != 1:
        raise ValueError(
            f"survive_count={number} says how many may die, and survive not what; use "
            "survive='gpu' or 'node', or leave survive_count out"
        )
    return None


def _check_slots(
    survive: tuple[str, int], num_experts: int, cluster: Cluster, name: str, step: int
) -> None:
    """Raise `ValueError` unless every expert can have a copy more than may die.

    A GPU or node is of use for one copy of each expert. Where that makes slots enough for all
    copies there is a placement: deal the experts out in turn, each GPU's (node's) slots after the
    other's (McNaughton 1959), and no expert comes twice to one before it has been to the next.
    """
    what, count = survive
    word = what.upper() if what == "gpu" else what
    living = len(cluster.living_gpus if what == "gpu" else cluster.living_by_node)
    told = (
        f"survive={what!r} with survive_count={count} takes copies of each expert on {count + 1} "
        f"{word}s"
    )
    if living <= count:
        fewer = f"survive_count={living - 1}" if living > 1 else "no survive"
        raise ValueError(
            f"{told}, and {living} {'is' if living == 1 else 'are'} alive; use {count + 1} or more "
            f"living {word}s, or {fewer}"
        )
    room, need = _room(cluster, what, num_experts), num_experts * (count + 1)
    if room >= need:
        return
    if cluster.all_alive and max(cluster.slots) - min(cluster.slots) <= 1:
        if len(set(cluster.slots)) == 1:
            step = math.lcm(step, cluster.num_gpus)
        enough = -(-need // step) * step
        gpus, nodes = cluster.num_gpus, cluster.num_nodes
        while _room(Cluster(gpus, nodes, num_slots=enough), what, num_experts) < need:
            enough += step
        raise ValueError(
            f"{name}={cluster.num_slots} is too few: {told}, and num_experts={num_experts}; "
            f"use {enough} or more"
        )
    raise ValueError(
        f"{name}: {told}, {need} slots for num_experts={num_experts}, and there are {room} that "
        f"count, at most one for each expert on a living {word}; use {need - room} or more slots "
        f"more, on {word}s with fewer than {num_experts}"
    )


def _room(cluster: Cluster, what: str, num_experts: int) -> int:
    """Count the slots of living GPUs or nodes, on each no more than there are experts."""
    domains = cluster.living_by_node
    if what == "gpu":
        domains = tuple((g,) for g in cluster.living_gpus)
    return sum(min(sum(cluster.slots[g] for g in gpus), num_experts) for gpus in domains)


def _why_not_strict(
    num_groups: int, num_experts: int, cluster: Cluster, survive: tuple[str, int] | None = None
) -> str:
    """Say what keeps the groups from being dealt out to nodes with room; empty where nothing."""
    nodes = len(cluster.living_by_node)
    if survive is not None and survive[0] == "node":
        return (
            "it keeps all copies of an expert on one node, and survive='node' on several; use "
            "survive='gpu'"
        )
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
    if survive is not None:
        copies = survive[1] + 1
        room = min(
            sum(min(cluster.slots[g], need) for g in gpus) for gpus in cluster.living_by_node
        )
        if room < copies * need:
            return (
                f"survive='gpu' takes {copies * need} slots of a node for {copies} copies of the "
                f"{need} experts of its groups, at most one on a GPU, and a node has {room}; use "
                f"{copies * need - room} or more slots more there"
            )
    return ""
