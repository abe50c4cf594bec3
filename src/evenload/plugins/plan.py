"""From what an engine asks for to the map that it gets back, the same for all engines.

Only the request and the settings decide, so ranks that share both come to the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import multiple, printable
from evenload.cluster import Cluster
from evenload.cost import ExpertTime
from evenload.dispatch import PLANNERS, TIMED
from evenload.forecast import shares
from evenload.maps import EMPTY
from evenload.moves import in_old_slots
from evenload.placement import Placement
from evenload.plan import Plan
from evenload.planner import solve_problem
from evenload.plugins.settings import Settings
from evenload.problem import Problem
from evenload.seconds import layer_seconds, over_phases, planned_seconds

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

NO_LOAD = "no layer has a load that is finite, not negative and not zero"


class PlacementMismatchError(ValueError):
    """A placement that was planned ahead is for another model, or for another part of it.

    No later rebalance can mend that, so before serving it has to stop the engine.
    """


@dataclass(frozen=True, eq=False)
class Request:
    """What an engine asks for.

    `windows`, [W, L, E], are the tokens of each logical expert in some windows, in any order: the
    plan has to hold under all of them. `current`, [L, S'], is the expert in each slot now; anything
    but an expert, such as -1, stands for nothing. Slots beyond `num_slots` belong to ranks that go,
    those missing to ranks that come; None: nothing runs yet. Slots and ranks include those that are
    gone, False in `alive`. `dispatch` is how the engine picks a replica for a token. Groups that do
    not divide the experts, or do not divide over the nodes, are ignored.

    Raises
    ------
    ValueError
        If the numbers do not divide, the living ranks have fewer slots than there are experts, or
        the current map has another number of layers.
    """

    windows: NDArray[Any]
    current: Int | None
    num_slots: int
    num_ranks: int
    num_nodes: int = 1
    num_groups: int = 1
    alive: tuple[bool, ...] | None = None
    dispatch: str = "even"

    def __post_init__(self) -> None:
        multiple("num_slots", self.num_slots, "num_ranks", self.num_ranks)
        multiple("num_ranks", self.num_ranks, "num_nodes", self.num_nodes)
        _, L, E = self.windows.shape
        self.cluster.check_holds(E, step=self.num_ranks)
        if self.current is not None and (self.current.ndim != 2 or len(self.current) != L):
            raise ValueError(f"the old map has shape {self.current.shape}; use [{L} layers, slots]")

    @cached_property
    def cluster(self) -> Cluster:
        """The ranks."""
        return Cluster(self.num_ranks, self.num_nodes, num_slots=self.num_slots, alive=self.alive)

    @cached_property
    def sound(self) -> Bool:
        """Whether each layer's load is finite, not negative and not all zero: bool [L]."""
        fine: Bool = (np.isfinite(self.windows) & (self.windows >= 0)).all(axis=(0, 2))
        return fine & (self.windows > 0).any(axis=(0, 2))

    @cached_property
    def old(self) -> Int:
        """What the slots that there are now hold, -1 for nothing: int64 [L, S].

        If nothing runs yet it is what engines start with: living slot s holds expert ``s % E``.
        """
        _, L, E = self.windows.shape
        old, living = np.full((L, self.num_slots), EMPTY), self.cluster.living_slot
        if self.current is None:
            old[:, living] = np.arange(living.sum()) % E
            return old
        width = min(self.num_slots, self.current.shape[1])
        old[:, :width] = self.current[:, :width]
        old[(old < 0) | (old >= E)] = EMPTY
        return old

    @cached_property
    def kept(self) -> Int:
        """The old map with every expert in a slot, -1 on ranks that are gone: int64 [L, S].

        An old slot changes only where it has to: experts without a slot take the empty ones, else
        the last slot of the expert with most. What is empty still goes to experts with fewest slots
        that their rank does not hold. Ties go to the lowest number. Plain NumPy and no kernel: a
        rank whose kernels fail comes to the same bytes.
        """
        kept, living = np.full_like(self.old, EMPTY), self.cluster.living_slot
        for new, old in zip(kept, self.old, strict=True):
            new[living] = _filled(old[living], self.windows.shape[2], self.cluster.slots_per_gpu)
        return kept

    @cached_property
    def as_it_runs(self) -> Int:
        """What to keep without any agreement, int64 [L, S]: as `kept`, but whoever is gone.

        Ranks may differ in their views of that, and must not differ in the map.
        """
        old = self.current
        if self.alive is None or old is None or old.shape != self.old.shape:
            return self.kept
        return old.astype(np.int64)

    def balancedness(self, placed: Int) -> float:
        """Do what `balancedness_of` does for a map [L, S] of these ranks, not a number for none."""
        return self.balancedness_of(*self._sound_part(placed))

    def moves(self, placed: Int) -> int | None:
        """Return the experts new to their rank by a map [L, S], in layers with a sound load.

        None where nothing runs, or the map is no placement on these ranks.
        """
        after, layers = self._sound_part(placed)
        running = self.running(layers)
        return None if running is None or after is None else int(after.arrivals(running).sum())

    def seconds(self, placed: Int, settings: Settings) -> float:
        """Do what `seconds_of` does for a map [L, S] of these ranks, not a number for none."""
        return self.seconds_of(*self._sound_part(placed), settings)

    def _sound_part(self, placed: Int) -> tuple[Placement | None, Int]:
        """Return a map's layers with a sound load as a placement, None if it is none; and which."""
        layers = np.flatnonzero(self.sound)
        try:
            return Placement(placed[layers], self.cluster, self.windows.shape[2]), layers
        except ValueError:
            return None, layers

    def _mean(self, measure: Any, placement: Placement | None, layers: Int, **how: Any) -> float:
        """Return the mean over the sound ones of some layers of what is measured under the load.

        Not a number where none of them is, or there is no placement.
        """
        sound = self.sound[layers]
        if placement is None or not sound.any():
            return math.nan
        load = np.where(sound[:, None], self.windows[:, layers], 0.0).sum(axis=0)
        return float(np.mean(measure(placement, load, dispatch=self.dispatch, **how)[sound]))

    def balancedness_of(self, placement: Placement | None, layers: Int) -> float:
        """Return that of a placement of some layers, as `_mean` takes it."""
        return self._mean(Placement.balancedness, placement, layers)

    def times(self, settings: Settings) -> dict[str, Any]:
        """Return what `times_of` does, for the experts that there are: a self-test has few."""
        times = times_of(settings)
        return times and times | {"top_k": min(times["top_k"], self.windows.shape[2])}

    def seconds_of(self, placement: Placement | None, layers: Int, settings: Settings) -> float:
        """Return the seconds per batch that a placement of some layers takes, as `_mean` takes it.

        Not a number where these are not known either.
        """
        times = self.times(settings)
        if not times or self.dispatch not in TIMED:
            return math.nan
        return self._mean(layer_seconds, placement, layers, **times)

    def running(self, layers: Int) -> Placement | None:
        """Return what runs in some layers as a placement, None if nothing does.

        Ranks that went since are in it. A rank without any expert in any layer is one that comes.
        Where the map is none of whole ranks, what was made of it counts as running.
        """
        if self.current is None:
            return None
        E, slots = self.windows.shape[2], self.cluster.slots_per_gpu
        old = self.current[layers]
        ranks, rest = divmod(old.shape[1], slots)
        if not rest:
            holds = (old != EMPTY).reshape(len(old), ranks, slots).any(axis=(0, 2))
            try:
                return Placement(old, Cluster(ranks, slots_per_gpu=slots, alive=holds.tolist()), E)
            except ValueError:  # an expert is missing, or some of a rank's slots are empty
                pass
        return Placement(self.kept[layers], self.cluster, E)


def _filled(row: Int, num_experts: int, slots_per_rank: int) -> Int:
    """Give every expert a slot and every slot an expert, in place; see `Request.kept`."""
    count = np.bincount(row[row != EMPTY], minlength=num_experts)
    for expert in np.flatnonzero(count == 0):
        empty = np.flatnonzero(row == EMPTY)
        if empty.size:
            slot = empty[0]
        else:
            most = count.argmax()
            slot = np.flatnonzero(row == most)[-1]
            count[most] -= 1
        row[slot] = expert
        count[expert] += 1
    for slot in np.flatnonzero(row == EMPTY):
        first = slot - slot % slots_per_rank
        others = np.setdiff1d(np.arange(num_experts), row[first : first + slots_per_rank])
        choice = others if others.size else np.arange(num_experts)
        row[slot] = choice[count[choice].argmin()]
        count[row[slot]] += 1
    return row


@dataclass(frozen=True, eq=False)
class Outcome:
    """A map, and what it is worth.

    The balancedness before and after is on the load, mean over the layers with a sound one; not a
    number where nobody measured it, or nothing ran.
    """

    map: Int  # expert in each slot [L, S], -1 on ranks that are gone
    before: float = math.nan
    after: float = math.nan
    moves: int = 0  # experts that are new to their rank, over all layers
    kept: str = ""  # why the old map is kept; empty where a plan was made
    code: str = ""  # that in a word
    windows: int = 1  # that the plan has to hold under
    own: float = math.nan  # balancedness by the engine's own policy, where that was asked
    own_moves: int | None = None  # by that, where something runs
    seconds: tuple[float, float] | None = None  # per batch before and after, where time counts


def plan_map(request: Request, settings: Settings) -> Outcome:
    """Plan the layers with a sound load, and keep the old map in the others.

    A window counts as a load that may come again, as often as its tokens say. An expert that stays
    on its rank stays in its slot.

    Raises
    ------
    ValueError
        For a solver, option or topology that the problem cannot be planned with.
    PlacementMismatchError
        For a placement planned ahead that is of another shape.
    """
    if settings.placement:
        return _as_planned_ahead(request, settings)
    layers = np.flatnonzero(request.sound)
    if not layers.size:
        return Outcome(request.kept, kept=NO_LOAD, code="no-load")
    windows = np.ascontiguousarray(request.windows[:, layers], np.float64)
    E, groups = windows.shape[2], request.num_groups
    topology = None if settings.topology == "auto" else settings.topology
    if E % groups or (groups % request.num_nodes and topology != "prefer"):
        groups = 1
    if groups == 1 and topology == "prefer":
        topology = "ignore"  # which moves few experts
    running = request.running(layers)
    # A solver asked for by name that cannot plan for it is worth more than none.
    dispatch = request.dispatch if settings.solver in PLANNERS else "even"
    times = request.times(settings)
    problem = Problem.build(
        windows.sum(axis=0), request.cluster, groups, topology, dispatch=dispatch, **times
    )
    problem = replace(problem, current=running)
    if len(windows) > 1:
        tokens = windows.sum(axis=(1, 2))
        weight = tokens / tokens.sum()
        problem = replace(problem, samples=shares(windows), sample_weight=weight)
    options = settings.for_solver(running is not None)
    plan = solve_problem(problem, settings.solver, **options)
    placed = plan.placement.physical_to_logical
    if running is None:
        return _outcome(request, placed, layers, running, 0, settings)
    waits = np.zeros(len(layers), bool)
    if settings.max_total_moves is None and running.cluster == request.cluster:
        waits = _wait(running, plan, settings.start_share)
        placed = np.where(waits[:, None], running.physical_to_logical, placed)
    return _outcome(request, placed, layers, running, int(plan.moves[~waits].sum()), settings)


def _wait(running: Placement, plan: Plan, share: float) -> Bool:
    """Say which layers wait for the next rebalance: bool [L].

    None but while a layer runs what the engine started with: then those that gain most go first,
    one at least, and beyond that no more experts move than that share of all slots.
    """
    start = Placement.trivial(running.num_layers, running.num_experts, running.cluster)
    stays = (running.physical_to_logical == start.physical_to_logical).all(axis=1)
    leaves = stays & (plan.moves > 0)
    if share >= 1.0 or not leaves.any():
        return np.zeros_like(leaves)
    dispatch = plan.problem.dispatch
    gain = plan.balancedness - running.balancedness(plan.problem.load, dispatch=dispatch)
    if plan.problem.by_time:
        gain = over_phases(plan.problem, planned_seconds(plan.problem, running)) - plan.seconds
    order = np.argsort(-gain, kind="stable")
    fits = np.cumsum(plan.moves[order]) <= share * running.num_slots * running.num_layers
    fits[0] |= share > 0.0
    waits: Bool = np.empty_like(leaves)
    waits[order] = ~fits
    return waits


def _as_planned_ahead(request: Request, settings: Settings) -> Outcome:
    path = settings.placement
    ahead = placement_ahead(path)
    _, L, E = request.windows.shape
    has = (*ahead.physical_to_logical.shape, ahead.num_experts, ahead.cluster.num_gpus)
    wanted = (L, request.num_slots, E, request.num_ranks)
    if has != wanted:
        raise PlacementMismatchError(
            f"{path} is for (layers, slots, experts, GPUs) = {has}, and the engine runs {wanted}"
            f"{_likely(has, wanted)}; plan for those, or unset EVENLOAD_PLACEMENT"
        )
    running = None if request.current is None else Placement(request.kept, request.cluster, E)
    moves = 0 if running is None else int(ahead.moves_from(running).sum())
    return _outcome(request, ahead.physical_to_logical, np.arange(L), running, moves, settings)


def _likely(has: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say why an engine probably runs another number of layers of a model of the same width."""
    if has[0] == wanted[0] or has[2] != wanted[2]:
        return ""
    return (
        ", probably because it balances each pipeline stage or the draft model by itself, and one "
        "placement cannot be for both; run without pipeline parallelism and draft model"
    )


def _outcome(
    request: Request, placed: Int, layers: Int, running: Placement | None, moves: int,
    settings: Settings,
) -> Outcome:  # fmt: skip
    """Put what was planned for some layers into the old map, and measure it."""
    if running is not None:
        placed = in_old_slots(placed, request.old[layers], request.cluster)
    result = request.kept.copy()
    result[layers] = placed
    after = Placement(placed, request.cluster, request.windows.shape[2])
    before, reached = (request.balancedness_of(of, layers) for of in (running, after))
    seconds = [request.seconds_of(of, layers, settings) for of in (running, after)]
    timed = None if math.isnan(seconds[1]) else (seconds[0], seconds[1])
    return Outcome(result, before, reached, moves, seconds=timed)


def times_of(settings: Settings) -> dict[str, Any]:
    """Return what the settings say of time, as arguments of `Problem.build`; nothing without."""
    if not settings.expert_time:
        return {}
    batches = {"tokens_per_batch": settings.tokens_per_batch, "top_k": settings.top_k}
    return {"expert_time": _curve(settings.expert_time), **batches}


@cache
def _curve(name: str) -> ExpertTime:
    """Read a curve once in a process: at registration, so that no later change counts."""
    return ExpertTime.named(name)


@cache
def placement_ahead(path: str) -> Placement:
    """Read a placement, once in a process: at registration, so that no later change counts.

    One with dead GPUs or GPUs of different numbers of slots, which these engines do not have, is a
    `ValueError`. So is one that is not there, as on a node that it was not copied to.
    """
    from evenload.io import read_placement_file

    try:
        placement = read_placement_file(path).placement
    except OSError as error:
        raise ValueError(
            f"EVENLOAD_PLACEMENT={printable(path)} cannot be read: {error.strerror or error}; put "
            "it at that path on every node"
        ) from None
    cluster = placement.cluster
    if not cluster.all_alive or len(set(cluster.slots)) > 1:
        raise ValueError(
            f"{path} is for GPUs that are gone, or have different numbers of slots; plan for GPUs "
            "that are all alive and alike"
        )
    return placement
