"""The figures that must not get worse: what `benchmarks.baseline` measures of a tree.

Only public names of evenload are used, so that any tree that has those can be measured.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import cold_start
from benchmarks.drift import Policy, follow, incremental
from benchmarks.measure import clocked
from benchmarks.planners import SOLVERS, PeerMissingError, published
from benchmarks.problems import DATA, Case, Drift, drifts, shapes
from evenload import Cluster, CostModel, Placement, Plan, eplb, solve
from evenload.replay import replay
from evenload.synth import lognormal_load, synthetic_load, synthetic_trace, zipf_load

Say = Callable[[str], None]
SEEDS, SEEDS_THOROUGH = 5, 2
SMALL = 60  # problems of one layer
USUAL_PRICE = 0.1  # of moving all slots of a layer, where no price of a move is given
ROUNDS, ROUNDS_SLOW = 9, 2
ROUNDS_START = 9
REFERENCE = "vLLM 0.33.0"
GOLDEN = DATA.parent / "golden"


# --- quality -----------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Plans that are judged together, one a seed.

    Few: a GPU has three slots or fewer, so that the tolerance is wider. Where a move has a price,
    or a token computed away from its group's node, it is judged in one with the balance.
    """

    name: str
    plan: Callable[[int], Plan]
    seeds: int
    few: bool = False
    price: float | None = None
    away: float | None = None

    def record(self) -> dict[str, Any]:
        """Plan, and return what was reached."""
        plans = [self.plan(seed) for seed in range(self.seeds)]
        found: dict[str, Any] = {
            "mean": float(np.mean([plan.balancedness.mean() for plan in plans])),
            "worst": float(min(plan.balancedness.min() for plan in plans)),
            "duplicates": int(sum(plan.duplicates.sum() for plan in plans)),
            "few": self.few,
            "digest": digest(*(plan.placement.physical_to_logical for plan in plans)),
        }
        if self.name.endswith("| auto"):  # not for all: a bound takes longer than many a plan
            found["bound"] = float(np.mean([plan.bound.mean() for plan in plans]))
        if plans[0].moves is not None:
            found["moves"] = int(sum(plan.moves.sum() for plan in plans))
        if self.price is not None or self.away is not None:
            found["score"] = float(np.mean([self._score(plan) for plan in plans]))
        return found

    def _score(self, plan: Plan) -> float:
        """Return the balancedness after what moves and tokens away cost, mean over layers."""
        time = 1.0 / plan.balancedness
        if self.price is not None:
            time = time + self.price * plan.moves
        if self.away is not None:
            time = time + self.away * plan.away_share * plan.placement.cluster.num_gpus
        return float((1.0 / time).mean())


def quality(say: Say) -> dict[str, Any]:
    """Return what each row reaches, by name; measured loads lie beside some checkouts only."""
    found = {}
    for rows in (_shapes(), _running(), _unequal(), _preferred()):
        for row in rows:
            say(row.name)
            try:
                found[row.name] = row.record()
            except Exception as error:  # one that fails is worse; the others are still judged
                found[row.name] = {"failed": f"{type(error).__name__}: {error}"}
    return found


def _solve_case(cases: list[Case], name: str, seed: int) -> Plan:
    case = cases[seed]
    return solve(case.load, case.cluster, num_groups=case.num_groups, **SOLVERS[name])


def _shapes() -> Iterator[Row]:
    for shape in shapes():
        cases, few = shape.cases(SEEDS), shape.slots_per_gpu <= 3
        for name in SOLVERS:
            seeds = min(len(cases), SEEDS_THOROUGH if name.endswith("thorough") else SEEDS)
            yield Row(f"{shape.name} | {name}", partial(_solve_case, cases, name), seeds, few)
    yield Row("small | auto", _small, SMALL, few=True)


def _small(seed: int) -> Plan:
    """Plan one layer of a few experts on a few GPUs, with few tokens and often uneven slots."""
    rng = np.random.default_rng(seed)
    experts, gpus = int(rng.integers(2, 13)), int(rng.integers(2, 7))
    load = rng.integers(0, 60, (1, experts))
    slots = rng.integers(1, 5, gpus)
    while slots.sum() < experts:
        slots += 1
    each = slots.tolist() if seed % 2 else [int(slots.max())] * gpus
    return solve(load, Cluster(gpus, slots=each))


RUNNING: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"effort": "fast"},
    "thorough": {"effort": "thorough"},
    "free moves": {"move_cost": 0.0},
    "dear moves": {"move_cost": 0.005},
    "8 a layer": {"max_moves": 8},
    "200 in all": {"max_total_moves": 200},
}


def running(gpus: int, seed: int) -> tuple[NDArray[np.float64], Cluster, Placement]:
    """Return a trace of 17 windows, a cluster, and the greedy plan of the window before last."""
    trace = synthetic_trace(17, seed=seed).astype(float)
    cluster = Cluster(gpus, num_slots=288)
    return trace, cluster, solve(trace[-2], cluster, solver="greedy").placement


def _solve_running(
    gpus: int, seed: int, whole: bool = False, cluster: Cluster | None = None, **options: Any
) -> Plan:
    trace, usual, current = running(gpus, seed)
    return solve(trace if whole else trace[-1], cluster or usual, current=current, **options)


def _running() -> Iterator[Row]:
    for gpus in (32, 96):
        for name, options in RUNNING.items():
            price = options.get("move_cost", USUAL_PRICE / 288)
            plan, seeds = partial(_solve_running, gpus, **options), 1 if name == "thorough" else 2
            yield Row(f"current 288/{gpus} | {name}", plan, seeds, gpus == 96, price)
        whole = partial(_solve_running, gpus, whole=True)
        yield Row(f"current 288/{gpus} | trace", whole, 2, gpus == 96, USUAL_PRICE / 288)
    fewer = partial(_solve_running, 32, cluster=Cluster(28, slots_per_gpu=11))
    yield Row("current 288/32 | on 28 GPUs", fewer, 2, price=USUAL_PRICE / 308)


def _unequal() -> Iterator[Row]:
    mixed, fast = [8, 9, 10, 9] * 8, [1.0, 1.0, 1.5, 2.0] * 8
    for label, cluster, groups in (
        ("slots 8 to 10", Cluster(32, slots=mixed), 1),
        ("speed 1 to 2", Cluster(32, num_slots=288, speed=fast), 1),
        ("slots and speed", Cluster(32, slots=mixed, speed=fast), 1),
        ("slots 2 to 4", Cluster(96, slots=[2, 3, 4, 3] * 24), 1),
        ("a GPU gone", Cluster(32, slots_per_gpu=9, alive=[True] * 31 + [False]), 1),
        ("strict, speed 1 to 2", Cluster(32, 4, num_slots=288, speed=fast), 8),
    ):
        loads = [lognormal_load(58, 256, 1.0, seed=seed) for seed in range(3)]
        cases = [Case(label, load, cluster, groups) for load in loads]
        for name in ("auto", "joint fast", "joint thorough"):
            plan, seeds = partial(_solve_case, cases, name), 1 if name.endswith("thorough") else 3
            yield Row(f"unequal, {label} | {name}", plan, seeds, min(cluster.slots) <= 3)


def _solve_preferred(cluster: Cluster, price: float, seed: int) -> Plan:
    return solve(synthetic_load(58, 256, seed=seed), cluster, num_groups=8, topology="prefer",
                 cross_node_price=price)  # fmt: skip


def _preferred() -> Iterator[Row]:
    for gpus in (32, 96):
        for price in (1.0, 0.01):
            plan = partial(_solve_preferred, Cluster(gpus, 4, num_slots=288), price)
            yield Row(f"prefer 288/{gpus} | price {price:g}", plan, 2, gpus == 96, away=price)


# --- time --------------------------------------------------------------------


def time(say: Say) -> dict[str, Any]:
    """Return wall and CPU time of each row over vLLM's, medians over interleaved rounds.

    Raises
    ------
    PeerMissingError
        If vLLM's planner cannot be had.
    """
    planners, missing = published(REFERENCE)
    if missing:
        raise PeerMissingError(f"times are ratios to vLLM's planner. {missing[0]}")
    theirs = planners[0].plan
    found: dict[str, Any] = {}
    for shape in shapes():
        say(shape.name)
        case = shape.case()
        calls = {name: partial(_solve_case, [case], name, 0) for name in SOLVERS}
        slow = {name: calls.pop(name) for name in list(calls) if name.endswith("thorough")}
        reference = {REFERENCE: partial(theirs, *case.arguments)}
        found |= _ratios(shape.name, reference | calls, ROUNDS)
        found |= _ratios(shape.name, reference | slow, ROUNDS_SLOW)
    for gpus in (32, 96):
        say(f"current, {gpus} GPUs")
        trace, cluster, current = running(gpus, 1)
        calls = {name: partial(solve, trace[-1], cluster, current=current, **RUNNING[name])
                 for name in ("default", "free moves", "200 in all")}  # fmt: skip
        calls["trace"] = partial(solve, trace, cluster, current=current)
        reference = {REFERENCE: partial(theirs, trace[-1], 288, 1, 1, gpus)}
        found |= _ratios(f"current 288/{gpus}", reference | calls, ROUNDS)
    return found


def _ratios(shape: str, calls: dict[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    seconds = {name: np.array(values) for name, values in clocked(calls, rounds).items()}
    theirs = seconds.pop(REFERENCE)
    return {
        f"{shape} | {name}": {
            "wall": statistics.median(ours[:, 0] / theirs[:, 0]),
            "cpu": statistics.median(ours[:, 1] / theirs[:, 1]),
            "ms": 1000 * statistics.median(ours[:, 0]),
        }
        for name, ours in seconds.items()
    }


# --- drift -------------------------------------------------------------------

PRICES = (0.0, 0.0005, 0.002, 0.01)
STRIDE = 2  # a long trace is planned for every other window
WINDOWS = 20  # served in all on each trace: short ones are renumbered more often
LEAST = 2


def drift(say: Say) -> dict[str, Any]:
    """Return moves and balancedness of each trace: lists [prices][numberings], window means.

    A search is a draw of what it could have found. So each trace is followed under several
    numberings of its experts, which ask the same question and draw anew.
    """
    found = {}
    for trace in drifts():
        name = f"{trace.name}, {trace.cluster.num_gpus} GPUs"
        say(name)
        stride = 1 if trace.is_short else STRIDE
        draws = max(LEAST, WINDOWS // len(range(trace.warm, len(trace.trace), stride)))
        moves = np.empty((len(PRICES), draws))
        reached = np.empty_like(moves)
        for i, price in enumerate(PRICES):
            for draw in range(draws):
                again = _renumbered(trace, draw)
                policy = Policy(name, partial(incremental, again, price))
                balance, moved = follow(again, policy, stride)
                moves[i, draw], reached[i, draw] = np.mean(moved), np.mean(balance)
        found[name] = {"moves": moves.tolist(), "balancedness": reached.tolist()}
    return found


def _renumbered(drift: Drift, draw: int) -> Drift:
    E = drift.trace.shape[2]
    order = np.random.default_rng(draw).permutation(E) if draw else np.arange(E)
    return Drift(drift.name, drift.trace[:, :, order], drift.cluster, drift.real)


# --- start -------------------------------------------------------------------


def start(say: Say) -> dict[str, Any]:
    """Return the seconds of fresh processes: compilations from an empty cache, and warm ones."""
    names = (cold_start.TRIVIAL, "evenload --help", "evenload plan loads.csv")
    warm = cold_start.warm(ROUNDS_START, say, names)
    return {
        "cold": cold_start.cold(say),
        "warm": {
            name: dict(zip(("wall", "cpu"), np.median(took, axis=0).tolist(), strict=True))
            for name, took in warm.items()
        },
    }


# --- golden ------------------------------------------------------------------


def golden(say: Say) -> dict[str, str]:
    """Return digests of what must stay: published results, loads, judged replays."""
    say("golden vectors")
    found = {
        "lognormal_load": digest(lognormal_load(58, 256, 1.0, seed=0)),
        "zipf_load": digest(zipf_load(58, 256, 1.0, seed=0)),
        "synthetic_load": digest(synthetic_load(58, 256, seed=0)),
        "synthetic_trace": digest(synthetic_trace(6, seed=0)),
    }
    for policy in ("never", "every-1:greedy"):
        trace = synthetic_trace(12, 4, 32, seed=0)
        cost = CostModel(**CostModel.preset("h100-ib", "deepseek-v3").numbers)
        how = {"cost": cost, "oracle": None, "recorded_share": 1e-3}
        told = replay(trace, Cluster(8, 2, num_slots=40), policy, **how)
        found[f"replay {policy}"] = digest(_told(told.balancedness), _told(told.mean_seconds))
    if GOLDEN.is_dir():
        with np.load(GOLDEN / "iterated_greedy_packing.npz") as file:
            found |= _packings(dict(file))
        with np.load(GOLDEN / "deepseek_rebalance.npz") as file:
            found |= _rebalanced(dict(file))
    return found


def digest(*arrays: Any) -> str:
    """Return the start of the SHA-256 of arrays, their types and shapes."""
    told = sha256()
    for array in arrays:
        told.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return told.hexdigest()[:16]


def _told(figures: Any) -> Any:
    """Return figures to nine digits: sums in another order are no change."""
    return np.char.mod("%.9g", figures)


def _packings(file: dict[str, Any]) -> dict[str, str]:
    import torch

    found = {}
    for case in sorted({name.split("_")[0] for name in file}):
        for dtype in ("float32", "float64"):
            weight = file[f"{case}_weight"].astype(dtype)
            pack = partial(eplb.balanced_packing, num_packs=int(file[f"{case}_num_packs"]))
            found[f"packing {case} {dtype}"] = digest(*pack(weight, backend="compiled"))
            batched = pack(torch.from_numpy(weight), backend="torch")
            found[f"packing {case} {dtype} torch"] = digest(*(part.numpy() for part in batched))
    return found


def _rebalanced(file: dict[str, Any]) -> dict[str, str]:
    found = {}
    for case in sorted({name.split("_")[0] for name in file}):
        weight, (slots, groups, nodes, gpus) = file[f"{case}_weight"], file[f"{case}_args"].tolist()
        maps = eplb.rebalance_experts(weight, slots, groups, nodes, gpus, solver="greedy")
        place = Placement(maps[0], Cluster(gpus, nodes, num_slots=slots), weight.shape[1])
        found[f"rebalance {case}"] = digest(*maps, _told(place.balancedness(weight)))
    return found
