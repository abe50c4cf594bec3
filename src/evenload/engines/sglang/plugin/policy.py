"""What a rebalance of SGLang is asked for and answers, on NumPy arrays.

Nothing but the question and the options decides, so ranks that share both come to the same plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.checks import multiple
from evenload.cluster import Cluster
from evenload.engines.common.carried import EMPTY, Int, carried_map
from evenload.engines.common.options import Options
from evenload.engines.common.plan_map import NO_LOAD, Planned
from evenload.forecast.windows import shares
from evenload.moves import in_old_slots
from evenload.placement import Placement
from evenload.plan import Plan
from evenload.planner import solve_problem
from evenload.problem import Problem


@dataclass(frozen=True, eq=False)
class Question:
    """What SGLang hands its algorithm, and what runs.

    Parameters
    ----------
    windows : ndarray, [W, L, E]
        Tokens of each expert in each of some windows.
    num_slots, slots_per_rank, num_nodes : int
        Nodes count only where the ranks divide over them.
    num_groups : int, default 1
        Groups of experts to keep on one node each, where that can be done.
    current : integer ndarray, [L, S'], optional
        Expert in each slot now.
    alive : tuple of bool, [G], optional
        False for a rank that is gone. Default: all are there.

    Raises
    ------
    ValueError
        If the slots do not divide over the ranks, or the living ranks have fewer than experts.
    """

    windows: NDArray[Any]
    num_slots: int
    slots_per_rank: int
    num_nodes: int = 1
    num_groups: int = 1
    current: Int | None = None
    alive: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        multiple("num_physical_experts", self.num_slots, "slots_per_rank", self.slots_per_rank)
        self.cluster.check_holds(self.windows.shape[2], "num_physical_experts", self.num_ranks)

    @property
    def num_ranks(self) -> int:
        """Ranks G, those that are gone included."""
        return self.num_slots // self.slots_per_rank

    @cached_property
    def cluster(self) -> Cluster:
        """The ranks."""
        nodes = self.num_nodes if self.num_ranks % self.num_nodes == 0 else 1
        return Cluster(self.num_ranks, nodes, slots_per_gpu=self.slots_per_rank, alive=self.alive)

    @cached_property
    def kept(self) -> Int:
        """What runs on the living ranks, every expert in a slot; -1 elsewhere: int64 [L, S].

        Without a current map it is what SGLang starts with.
        """
        _, L, E = self.windows.shape
        living = self.cluster.living_slot
        old = None if self.current is None else self.padded[:, living]
        kept = np.full((L, self.num_slots), EMPTY)
        kept[:, living] = carried_map(old, L, E, int(living.sum()), len(self.cluster.living_gpus))
        return kept

    @property
    def padded(self) -> Int:
        """The current map on the slots that there are now, -1 where it has none: int64 [L, S]."""
        old = np.full((len(self.windows[0]), self.num_slots), EMPTY)
        assert self.current is not None
        width = min(self.num_slots, self.current.shape[1])
        old[:, :width] = self.current[:, :width]
        return old

    def running(self, layers: Int) -> Placement | None:
        """Return what runs in some layers as a placement; ranks that went since are in it."""
        if self.current is None:
            return None
        E, width = self.windows.shape[2], self.current.shape[1]
        try:
            before = Cluster(width // self.slots_per_rank, slots_per_gpu=self.slots_per_rank)
            return Placement(self.current[layers], before, E)
        except ValueError:  # the map is none: what was made of it counts as running
            return Placement(self.kept[layers], self.cluster, E)


def answer(question: Question, options: Options) -> Planned:
    """Plan the layers that have load, and leave the others as they are.

    Each window counts as a load that may come again, as often as its tokens say, and the plan has
    to hold under all of them. Their order is not looked at: SGLang's buffer of passes is circular,
    and does not say where it begins.

    Parameters
    ----------
    question : Question
    options : Options

    Returns
    -------
    Planned
        With -1 on ranks that are gone. An expert that stays on its rank stays in its slot. What ran
        is measured only where something did.

    Raises
    ------
    ValueError
        For a load that is negative or not finite, and for all that `evenload.solve` refuses.
    """
    load = check_weights("tokens_per_expert", question.windows)
    layers = np.flatnonzero(load.any(axis=(0, 2)))
    if not len(layers):
        return Planned(question.kept, kept=NO_LOAD)
    running = question.running(layers)
    plan = solve_problem(
        _problem(load[:, layers], question, running, options),
        options.solver,
        **options.for_solver(running is not None),
    )
    result = question.kept.copy()
    result[layers] = _in_old_slots(plan.placement, question, layers)
    return Planned(
        result,
        math.nan if running is None else _balance(running, plan),
        _balance(plan.placement, plan),
        0 if plan.moves is None else int(plan.moves.sum()),
    )


def _problem(
    load: NDArray[np.float64], question: Question, running: Placement | None, options: Options
) -> Problem:
    topology = None if options.topology == "auto" else options.topology
    problem = Problem.build(load.sum(axis=0), question.cluster, question.num_groups, topology)
    if len(load) > 1:
        tokens = load.sum(axis=(1, 2))
        problem = replace(problem, samples=shares(load), sample_weight=tokens / tokens.sum())
    return replace(problem, current=running)


def _in_old_slots(placement: Placement, question: Question, layers: Int) -> Int:
    """Return the map with every expert that stays on its rank in the slot that it had."""
    placed = placement.physical_to_logical
    if question.current is None:
        return np.array(placed)
    return in_old_slots(placed, question.padded[layers], question.cluster)


def _balance(placement: Placement, plan: Plan) -> float:
    return float(np.mean(placement.balancedness(plan.problem.load)))
