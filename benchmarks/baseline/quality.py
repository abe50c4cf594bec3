"""What plans reach: every solver and effort on every shape, and the special ways to ask."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from benchmarks.loads import real_is_here
from benchmarks.sizes import DRAWN, MEASURED
from evenload import Cluster, Plan, solve
from evenload.synth import lognormal_load, synthetic_load, synthetic_trace

SEEDS, SEEDS_THOROUGH = 5, 2
SMALL = 60
Options = dict[str, Any]

SOLVERS: dict[str, Options] = {
    "greedy": {"solver": "greedy"},
    "iterated-greedy": {"solver": "iterated-greedy"},
    "local-search": {"solver": "local-search"},
    "auto": {},
    "joint fast": {"solver": "joint", "effort": "fast"},
    "joint standard": {"solver": "joint", "effort": "standard"},
    "joint thorough": {"solver": "joint", "effort": "thorough"},
}


@dataclass(frozen=True)
class Row:
    """Plans that are judged together.

    Attributes
    ----------
    name : str
        ``"shape | how it was asked for"``.
    plan : callable
        ``plan(seed)`` gives a `Plan`.
    seeds : int
    few : bool
        Whether a GPU has three slots or fewer: the tolerance is wider then.
    price : float, optional
        Of a move, in balancedness of its layer; where given, balance and moves are judged as one.
    away : float, optional
        Price of a token computed away from its group's node; judged in one with the balance.
    bound : bool
        Whether the proven bound is kept too: it takes longer than many a plan.
    """

    name: str
    plan: Callable[[int], Plan]
    seeds: int
    few: bool = False
    price: float | None = None
    away: float | None = None
    bound: bool = False


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Return what each row reaches, by name."""
    found = {}
    for row in rows():
        say(row.name)
        found[row.name] = _record(row, [row.plan(seed) for seed in range(row.seeds)])
    return found


def _record(row: Row, plans: list[Plan]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "mean": float(np.mean([plan.balancedness.mean() for plan in plans])),
        "worst": float(min(plan.balancedness.min() for plan in plans)),
        "duplicates": int(sum(plan.duplicates.sum() for plan in plans)),
        "few": row.few,
        "digest": _digest([plan.placement.physical_to_logical for plan in plans]),
    }
    if row.bound:
        record["bound"] = float(np.mean([plan.bound.mean() for plan in plans]))
    if plans[0].moves is not None:
        record["moves"] = int(sum(plan.moves.sum() for plan in plans))
    if row.price is not None or row.away is not None:
        record["score"] = float(np.mean([_score(row, plan) for plan in plans]))
    return record


def _score(row: Row, plan: Plan) -> float:
    """Return the balancedness after what moves and tokens away from home cost, mean over layers."""
    time = 1.0 / plan.balancedness
    if row.price is not None:
        time = time + row.price * plan.moves
    if row.away is not None:
        time = time + row.away * plan.away_share * plan.placement.cluster.num_gpus
    return float((1.0 / time).mean())


def _digest(arrays: list[Any]) -> str:
    return sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:12]


def rows() -> Iterator[Row]:
    """Yield everything that is judged; measured loads lie beside some checkouts only."""
    yield from _shapes()
    yield from _replanned()
    yield from _unequal()
    yield from _preferred()
    yield Row("small | auto", _small, SMALL, few=True, bound=True)


def _shapes() -> Iterator[Row]:
    for size in DRAWN + [size for size in MEASURED if real_is_here(size.load)]:
        cases = size.cases(SEEDS)
        for name, options in SOLVERS.items():

            def plan(seed: int, cases: Any = cases, options: Options = options) -> Plan:
                case = cases[seed]
                return solve(case.load, case.cluster, num_groups=case.num_groups, **options)

            seeds = SEEDS_THOROUGH if name.endswith("thorough") else SEEDS
            few = size.slots_per_gpu <= 3
            seeds = min(seeds, len(cases))
            yield Row(f"{size.name} | {name}", plan, seeds, few, bound=name == "auto")


@dataclass(frozen=True)
class _Again:
    """Plan the last of 17 windows where the greedy plan of the one before runs."""

    cluster: Cluster
    options: Options = field(default_factory=dict)
    whole: bool = False
    before: Cluster | None = None

    def __call__(self, seed: int) -> Plan:
        trace = synthetic_trace(17, seed=seed).astype(float)
        runs = solve(trace[-2], self.before or self.cluster, solver="greedy").placement
        load = trace if self.whole else trace[-1]
        return solve(load, self.cluster, current=runs, **self.options)


def _replanned() -> Iterator[Row]:
    for gpus in (32, 96):
        cluster, few = Cluster(gpus, num_slots=288), gpus == 96
        usual = 0.1 / 288  # what `move_cost` is where none is given
        for name, options, price in (
            ("default", {}, usual),
            ("fast", {"effort": "fast"}, usual),
            ("thorough", {"effort": "thorough"}, usual),
            ("free moves", {"move_cost": 0.0}, 0.0),
            ("dear moves", {"move_cost": 0.005}, 0.005),
            ("8 a layer", {"max_moves": 8}, usual),
            ("200 in all", {"max_total_moves": 200}, usual),
        ):
            seeds = 1 if name == "thorough" else 2
            label = f"current 288/{gpus} | {name}"
            yield Row(label, _Again(cluster, options), seeds, few, price)
        whole = _Again(cluster, whole=True)
        yield Row(f"current 288/{gpus} | trace", whole, 2, few, usual)
    fewer = _Again(Cluster(28, slots_per_gpu=11), before=Cluster(32, slots_per_gpu=9))
    yield Row("current 288/32 | on 28 GPUs", fewer, 2, price=0.1 / 308)


def _unequal() -> Iterator[Row]:
    mixed = [8, 9, 10, 9] * 8
    fast = [1.0, 1.0, 1.5, 2.0] * 8
    clusters = {
        "slots 8 to 10": (Cluster(32, slots=mixed), 1),
        "speed 1 to 2": (Cluster(32, num_slots=288, speed=fast), 1),
        "slots and speed": (Cluster(32, slots=mixed, speed=fast), 1),
        "slots 2 to 4": (Cluster(96, slots=[2, 3, 4, 3] * 24), 1),
        "a GPU gone": (Cluster(32, slots_per_gpu=9, alive=[True] * 31 + [False]), 1),
        "strict, speed 1 to 2": (Cluster(32, 4, num_slots=288, speed=fast), 8),
    }
    for label, (cluster, groups) in clusters.items():
        for name in ("auto", "joint fast", "joint thorough"):

            def plan(
                seed: int, cluster: Any = cluster, groups: int = groups, name: str = name
            ) -> Plan:
                load = lognormal_load(58, 256, 1.0, seed=seed)
                return solve(load, cluster, num_groups=groups, **SOLVERS[name])

            seeds = 1 if name.endswith("thorough") else 3
            few = min(cluster.slots) <= 3
            yield Row(f"unequal, {label} | {name}", plan, seeds, few, bound=name == "auto")


def _preferred() -> Iterator[Row]:
    for gpus in (32, 96):
        for price in (1.0, 0.01):
            cluster = Cluster(gpus, 4, num_slots=288)

            def plan(seed: int, cluster: Cluster = cluster, price: float = price) -> Plan:
                return solve(synthetic_load(58, 256, seed=seed), cluster, num_groups=8,
                             topology="prefer", cross_node_price=price)  # fmt: skip

            yield Row(f"prefer 288/{gpus} | price {price:g}", plan, 2, gpus == 96, away=price)


def _small(seed: int) -> Plan:
    """Plan one layer of a few experts on a few GPUs, with few tokens and uneven slots."""
    rng = np.random.default_rng(seed)
    experts, gpus = int(rng.integers(2, 13)), int(rng.integers(2, 7))
    load = rng.integers(0, 60, (1, experts))
    slots = rng.integers(1, 5, gpus)
    while slots.sum() < experts:
        slots += 1
    cluster = Cluster(gpus, slots=slots.tolist()) if seed % 2 else Cluster(
        gpus, slots_per_gpu=int(slots.max()))  # fmt: skip
    return solve(load, cluster)
