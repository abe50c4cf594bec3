"""Plans that hold under drift and move few experts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import within_range
from evenload.checks import fraction, not_negative, whole_number
from evenload.core.steps import NO_LIMIT
from evenload.dispatch import BY_PLACE
from evenload.maps import EMPTY
from evenload.moves import in_old_slots
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.answer import Answer
from evenload.solvers.by_node import to_placement
from evenload.solvers.joint import joint
from evenload.solvers.prices import by_added_time
from evenload.solvers.replan import FLOWS, Found, Search
from evenload.solvers.running import Running
from evenload.solvers.search import check_effort

Int = NDArray[np.int64]
Float = NDArray[np.float64]

STEPS = {"fast": 4000, "standard": 16000, "thorough": 160000}
SMALL = 80  # slots of a layer up to which a level has all its steps
FLOW_SHARE = 2  # of the steps of an effort, under `FLOWS`: twice as many gained nothing
CLOSE = 0.9999  # balancedness at which a layer is left at that
MOVE_ALL = 0.1  # balancedness that moving all slots of a layer has to gain, where no price is given
LIVE_MOVE = 0.003  # the same of one move, where tokens are split live
FRESH_EFFORT = 20  # trials of the joint search for a plan that is only a start
FRESH_SHARE = 4  # the start from scratch gets this part of the steps, where moves are not free

APART = 1e-9  # of a time, by which experts of the same time differ

WASTE = 0.001  # balancedness that a duplicate counts for, where layers compete for moves
LEAST_PRICE, STEEPER, MOST_PRICES = 0.0005, 2.0, 12  # of a move, where the moves of all are limited


def incremental(
    problem: Problem,
    *,
    max_moves: int | None = None,
    max_total_moves: int | None = None,
    move_cost: float | None = None,
    effort: str | int = "standard",
    target: float | None = None,
) -> Answer:
    """Balance the expected load with few moves from what runs.

    It lowers the slowest GPU's time, averaged over the samples, relative to that of a load divided
    at will, plus `move_cost` per move. With an `expert_time`, time counts tokens and weights, and
    "at will" means with the best number of replicas of each expert; else it counts tokens alone.
    The search is threshold accepting from what runs now, and from a fresh plan whose GPUs are
    matched with the running ones so that most experts stay (an assignment problem); each layer
    takes what costs less, and never more than what runs. Without a current placement a fresh plan
    is improved under the samples.

    For the dispatch ``"live"`` the slowest GPU's time is that of the best split of each sample, so
    that GPUs get linked by the experts that they share; see `core.flow`, `core.live`. For
    ``"nearest"`` and ``"static"`` it is what the replicas get by where they are; ranks without a
    near replica count as sharing evenly. For ``"one"`` it is that of the best split of what experts
    take in batches drawn from the load: 1 if they are active, or by their `ExpertTime`. Whole units
    can be divided as well as that, rounded up.

    For the dispatch ``"copy"`` the tokens above every GPU's mean take the place of the slowest
    GPU's time: those, more than anything else that was tried, tell how many experts a balancer
    copies. (Worse on real loads: their squares, or roots; the number of GPUs above, however
    smoothed; and to count from the limit on, as samples are noisy: only slack beyond 7 % is left
    out.)

    Parameters
    ----------
    problem : Problem
    max_moves : int, optional
        Experts of one layer that may move to another GPU; 0 keeps the current placement as it is.
        Moves that experts without a living slot force are made all the same, and told of.
    max_total_moves : int, optional
        Experts of all layers together that may move; the layers that gain most get them.
    move_cost : float, optional
        What a move has to gain in its layer: in balancedness, or more exactly in the slowest GPU's
        time over the mean. 0 moves whatever helps, and is never worse than planning from scratch.
        Default: 0.1 / S, so that moving the experts of all S living slots has to gain 0.1; for
        the dispatch ``"live"``, under which few moves are needed, 0.003.
    effort : {"fast", "standard", "thorough"} or int, default "standard"
        Steps of one layer: 4000, 16000, 160000 for layers of up to 80 slots; beyond, fewer with the
        square of the slots, since a step looks at that many pairs, and where moves have a price
        with its fourth power, since more give nothing there; or a number. Where moves are not
        free the start from scratch has a quarter of them, and under even shares a layer ends where
        2000 in a row, or an eighth of all, are refused. For ``"live"``, ``"nearest"`` and
        ``"static"`` half of them, and beyond 80 slots fewer with the root of the slots.
    target : float, optional
        Balancedness in (0, 1], on average over the samples, at which a layer is good enough.
        Default: 0.9999. Without effect for the dispatch ``"copy"``.

    Returns
    -------
    Answer
        An expert that stays on its GPU stays in its slot.

    Raises
    ------
    ValueError
        For negative moves or costs, moves to be limited without a current placement, an unknown
        effort, a target outside (0, 1], the topology ``"prefer"``, or too few moves to come to a
        plan that keeps groups on nodes from one that does not.
    """
    steps = check_effort(effort, STEPS)
    goal = 1.0 / (fraction("target", target) or CLOSE)
    goal = 0.0 if problem.dispatch == "copy" else goal
    slots = problem.cluster.num_living_slots
    price = LIVE_MOVE if problem.dispatch in ("live", "one") else MOVE_ALL / slots
    price = price if move_cost is None else not_negative("move_cost", move_cost)
    most = None if max_moves is None else whole_number("max_moves", max_moves)
    total = None if max_total_moves is None else whole_number("max_total_moves", max_total_moves)
    if problem.topology == "prefer":
        raise ValueError(
            "topology='prefer' is beyond solver 'incremental'; use topology 'strict' or 'ignore', "
            "or solver 'joint', which plans from scratch"
        )
    if isinstance(effort, str):
        power = 2 if problem.current is None or price == 0.0 else 4
        if problem.dispatch in FLOWS:
            steps = math.isqrt((steps // FLOW_SHARE) ** 2 * SMALL // max(SMALL, slots))
        else:
            steps = int(steps * SMALL**power // max(SMALL, slots) ** power)
    strategy = Strategy(problem, steps, goal)
    if problem.current is None:
        limits = {"max_moves": most, "max_total_moves": total, "move_cost": move_cost}
        for name, value in limits.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value} needs to know what runs now; give current, or leave {name} out"
                )
        return Answer(to_placement(problem, strategy.as_dealt(strategy.planned(), 0.0).placed))
    found = strategy.as_dealt(strategy.plan(price, most, total), price)
    placed = in_old_slots(found.placed, strategy.runs.slots, problem.cluster.living)
    return Answer(to_placement(problem, placed), notes=strategy.notes)


@dataclass(frozen=True, eq=False)
class Strategy:
    """Which starts are searched, and what of them is kept.

    Parameters
    ----------
    problem : Problem
    steps : int
        Of the search of one layer.
    goal : float
        Time of the slowest GPU, over the mean, that is good enough.
    """

    problem: Problem
    steps: int
    goal: float

    @cached_property
    def runs(self) -> Running:
        """What runs now."""
        return Running(self.problem)

    @cached_property
    def search(self) -> Search:
        """The search of the layers."""
        return Search(self.runs, self._whole, self.steps, self.goal)

    @cached_property
    def start(self) -> Int:
        """What runs, whole and with copies where they have to be, or a fresh plan: int64 [L, S]."""
        if self.problem.current is None or self.problem.survive is None:
            return self._whole
        unlimited = np.full(self.problem.num_layers, NO_LIMIT)
        return self.search(self._whole, 0.0, unlimited, steps=0).placed

    @cached_property
    def _whole(self) -> Int:
        """What runs, its gaps filled, or a fresh plan where nothing runs: int64 [L, S]."""
        if self.problem.current is not None:
            return self.runs.whole
        if self.problem.dispatch in BY_PLACE:  # where places matter little, that is hard to beat
            even = replace(self.problem, dispatch="even", tokens_from=None)
            return Strategy(even, self.steps, self.goal).planned().placed
        return self.fresh("standard")

    @cached_property
    def forced(self) -> Int:
        """Moves of each layer that the start takes."""
        return self.runs.moves_to(self.start)

    def fresh(self, effort: str | int, load: Float | None = None) -> Int:
        """Plan for the load alone, or for another: int64 [L, S], the living slots."""
        problem = self.problem.alone
        problem = problem if load is None else replace(problem, load=within_range(load))
        return self._living(joint(problem, effort=effort))

    def _living(self, placement: Placement) -> Int:
        living = self.problem.cluster.living_slot
        return np.ascontiguousarray(placement.rows[:, living])

    def _by_time(self, effort: str | int) -> list[Int]:
        """Make more starts where time counts, and a load no longer tells all: int64 [L, S] each.

        By the time of an expert with one replica; and with spare slots where they add least time,
        in its domains. None where tokens count.
        """
        if self.search.prices is None:
            return []
        order, rank = self.search.ranked
        price = self.search.prices.over_samples
        # Experts of one time differ by their rank, so that it does not matter what they are called.
        apart = 1.0 - APART * np.arange(self.problem.num_experts)
        busy = self.fresh(effort, np.take_along_axis(price[:, 0] * apart, rank, axis=1))
        cluster, gpu = self.problem.cluster, np.arange(self.search.gpu.shape[1])
        node = np.cumsum([0, *(len(gpus) for gpus in cluster.living_by_node)])
        domains = np.split(gpu, node[1:-1]) if self.problem.hierarchical else [gpu]
        begun = np.take_along_axis(rank, busy, axis=1)
        spared = by_added_time(price, begun, self.search.gpu, domains)
        spared = np.take_along_axis(order, spared, axis=1)
        wasted = [to_placement(self.problem, start).duplicates for start in (busy, spared)]
        return [busy, np.where((wasted[1] > wasted[0])[:, None], busy, spared)]

    def planned(self) -> Found:
        """Plan for the load, and improve that under the samples."""
        unlimited = np.full(self.problem.num_layers, NO_LIMIT)
        scratch = Strategy(replace(self.problem, current=None), self.steps, self.goal)
        found = scratch.search(scratch.start, 0.0, unlimited)
        for start in scratch._by_time("standard"):
            found = found.or_better(scratch.search(start, 0.0, unlimited), 0.0)
        if self.problem.by_time:
            L, E = self.problem.load.shape
            in_order = self._living(Placement.trivial(L, E, self.problem.cluster))
            found = found.or_better(scratch.search(in_order, 0.0, unlimited, steps=0), 0.0)
        return found

    def plan(self, price: float, most: int | None, total: int | None) -> Found:
        """Plan every layer from what runs.

        Parameters
        ----------
        price : float
            What a move has to gain.
        most, total : int or None
            Moves of one layer and of all that there may be.

        Raises
        ------
        ValueError
            Where the moves do not suffice to keep groups on nodes.
        """
        forced = int(self.forced.sum())
        limit = np.maximum(self.forced, NO_LIMIT if most is None else most)
        if forced == 0 and 0 in (most, total):
            found = self._stay()
        elif total is None:
            found = self._both(price, limit)
        else:
            found = self._within(max(total, forced), price, limit)
        lacking = np.flatnonzero(np.isinf(found.peak))
        if lacking.size == 0:
            return found
        told = f"max_moves={most}" if most is not None else f"max_total_moves={total}"
        raise ValueError(
            f"current does not keep every group on one node in layer {lacking[0]}, and {told} do "
            "not suffice to come to a plan that does; use more, or topology 'ignore'"
        )

    def as_dealt(self, found: Found, price: float) -> Found:
        """Keep the start instead where SGLang's very deals make that the better one of all layers.

        Only ``"static"`` deals ranks out. Random numbers go on from layer to layer, so that a
        search can reckon with their mean alone, and layers cannot be chosen one by one.
        """
        if self.problem.dispatch != "static" or not np.isfinite(found.peak).all():
            return found
        start = Found(self.start, found.peak, self.forced)
        cost = [self._dealt_time(f.placed) + price * float(f.moves.mean()) for f in (start, found)]
        return start if cost[0] < cost[1] else found

    def _dealt_time(self, placed: Int) -> float:
        """Return the mean time of the last GPU over layers and samples, with SGLang's deals."""
        problem, placement = self.problem, to_placement(self.problem, placed)
        samples, weight = problem.likely
        parts = placement.weights(problem.load, problem.dispatch, problem.tokens_from)
        times = [float((1.0 / placement.evaluate(load, parts)[1]).mean()) for load in samples]
        return float(np.average(times, weights=weight))

    def _both(self, price: float, limit: Int) -> Found:
        """Search from what runs and from scratch, and take what costs less."""
        kept = self.search(self.start, price, limit)
        if limit.max() == 0:
            return kept
        if price > 0.0 or (limit < NO_LIMIT).any():
            for near in self._near:
                kept = kept.or_better(self.search(near, price, limit, FRESH_SHARE), price)
            return kept
        planned = self.planned()
        matched = self.runs.matched(planned.placed)
        found = Found(matched, planned.peak, self.runs.moves_to(matched))
        if self.problem.dispatch in BY_PLACE:  # a GPU of another number is sent other tokens
            found = self.search(matched, 0.0, limit, steps=0)
            found = found.or_better(
                replace(planned, moves=self.runs.moves_to(planned.placed)), price
            )
        return kept.or_better(found, price)

    @cached_property
    def _near(self) -> list[Int]:
        """Starts from scratch, whatever the price."""
        starts = [self.fresh(FRESH_EFFORT), *self._by_time(FRESH_EFFORT)]
        return [self.runs.matched(start) for start in starts]

    def _stay(self) -> Found:
        return self.search(self.start, 0.0, self.forced, steps=0)

    def _within(self, total: int, price: float, limit: Int) -> Found:
        """Plan at the price, and if that takes too many moves at higher ones, mixing layers."""
        options = [self._stay(), self._both(price, limit)]
        while options[-1].moves.sum() > total and len(options) < MOST_PRICES:
            price = max(price * STEEPER, LEAST_PRICE)
            options.append(self._both(price, limit))
        peak = np.stack([found.peak for found in options])
        moves = np.stack([found.moves for found in options])
        wasted = np.stack([to_placement(self.problem, f.placed).duplicates for f in options])
        chosen = choose_layers(peak + WASTE * wasted, moves, total)
        layer = np.arange(len(chosen))
        placed = np.stack([found.placed for found in options])[chosen, layer]
        return Found(placed, peak[chosen, layer], moves[chosen, layer])

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not to be avoided."""
        gaps = int((self.runs.slots == EMPTY).sum())
        if gaps == 0 and (self.start == self.runs.slots).all():
            return ()
        why = f"{gaps} slots of the living GPUs hold nothing yet, and every expert needs one"
        if self.problem.survive is not None:
            what, count = self.problem.survive
            domains = {"gpu": "GPUs", "node": "nodes"}[what]
            why = f"every expert needs copies on {count + 1} living {domains}" + (
                f", and {gaps} slots of the living GPUs hold nothing yet" if gaps else ""
            )
        return (f"{int(self.forced.sum())} moves could not be avoided: {why}",)


def choose_layers(peak: Float, moves: Int, total: int) -> Int:
    """Choose an option [O, L] for each layer, from the first one on by gain per move: int64 [L].

    Always the step, of any layer to any option, that gains most for each of its moves and still
    fits; the lowest layer and option first among equals.
    """
    layer = np.arange(peak.shape[1])
    chosen = np.zeros(len(layer), np.int64)
    left = total - int(moves[0].sum())
    while True:
        more = moves - moves[chosen, layer]
        legal = np.isfinite(peak)  # what runs may not keep groups on nodes: then any plan gains
        gain = np.where(legal, peak[chosen, layer] - np.where(legal, peak, 0.0), -1.0)
        fits = (gain > 0.0) & (more <= left)
        worth = np.where(fits, gain / np.maximum(more, 0.5), -np.inf)
        option, at = np.unravel_index(np.argmax(worth.T), worth.T.shape)[::-1]
        if not fits[option, at]:
            return chosen
        left -= int(more[option, at])
        chosen[at] = option
