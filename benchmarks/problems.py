"""The problems that planners are compared on: loads, shapes, and traces."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload import Cluster
from evenload.synth import lognormal_load, synthetic_load, synthetic_trace, zipf_load

# Measured loads lie beside a development checkout only; without them that part is skipped.
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NUM_LAYERS, NUM_EXPERTS, NUM_SLOTS, NUM_GPUS = 58, 256, 288, 32

LOADS: dict[str, Callable[[int, int, int], NDArray[Any]]] = {
    "lognormal 0.5": lambda L, E, seed: lognormal_load(L, E, 0.5, seed=seed),
    "lognormal 1.0": lambda L, E, seed: lognormal_load(L, E, 1.0, seed=seed),
    "zipf 1.0": lambda L, E, seed: zipf_load(L, E, 1.0, seed=seed),
    "calibrated": lambda L, E, seed: synthetic_load(L, E, seed=seed),
}
MEASURED = ("gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b", "olmoe-domains")


@dataclass(frozen=True)
class Case:
    """A load [L, E] and the cluster it is placed on, with groups that stay on one node."""

    name: str
    load: NDArray[Any]
    cluster: Cluster
    num_groups: int = 1

    @property
    def arguments(self) -> tuple[NDArray[Any], int, int, int, int]:
        """Arguments of `planners.Planner.plan`."""
        cluster = self.cluster
        return self.load, cluster.num_slots, self.num_groups, cluster.num_nodes, cluster.num_gpus


@dataclass(frozen=True)
class Shape:
    """Slots S and GPUs G of a layer, and the load that is placed there.

    `load` is a name of `LOADS` or `MEASURED`; strict: 8 groups stay on one of 4 nodes each.
    """

    load: str
    slots: int = NUM_SLOTS
    gpus: int = NUM_GPUS
    strict: bool = False

    @property
    def name(self) -> str:
        """Name in the tables: ``slots/GPUs load``."""
        return f"{'strict ' if self.strict else ''}{self.slots}/{self.gpus} {self.load}"

    @property
    def slots_per_gpu(self) -> int:
        """Slots on each GPU, K."""
        return self.slots // self.gpus

    def case(self, seed: int = 0, name: str = "", num_layers: int = NUM_LAYERS) -> Case:
        """Return the problem that a seed draws; a measured load is the same for all."""
        cluster = Cluster(self.gpus, 4 if self.strict else 1, num_slots=self.slots)
        if self.load in LOADS:
            load = LOADS[self.load](num_layers, NUM_EXPERTS, seed)
        else:
            with np.load(DATA / f"{self.load}.npz") as arrays:
                load = arrays["load"].sum(axis=0)[:num_layers]  # over windows
        return Case(name or self.name, load, cluster, 8 if self.strict else 1)

    def cases(self, seeds: int, num_layers: int = NUM_LAYERS) -> list[Case]:
        """Return a case a seed; a measured load is one case, with its own layers."""
        return [self.case(seed, num_layers=num_layers)
                for seed in range(seeds if self.load in LOADS else 1)]  # fmt: skip


SHAPES = [
    *(Shape(load) for load in ("lognormal 1.0", "calibrated")),
    Shape("lognormal 1.0", 320, 64),
    *(Shape(load, 288, 96) for load in ("lognormal 0.5", "lognormal 1.0", "calibrated",
                                        "zipf 1.0")),
    *(Shape(load, 288, 144) for load in LOADS),
    *(Shape(load, 320, 160) for load in ("lognormal 0.5", "lognormal 1.0", "zipf 1.0")),
    *(Shape(load, strict=True) for load in ("lognormal 0.5", "lognormal 1.0", "calibrated")),
    *(Shape(load, 288, 144, strict=True) for load in ("lognormal 0.5", "lognormal 1.0")),
]  # fmt: skip
SHAPES_MEASURED = [
    Shape("gpt-oss-20b", 40, 8), Shape("gpt-oss-20b", 48, 16),
    Shape("deepseek-v2-lite", 72, 8), Shape("deepseek-v2-lite", 96, 32),
    Shape("qwen3-30b-a3b", 160, 16), Shape("qwen3-30b-a3b", 192, 64),
    Shape("olmoe-domains", 72, 8),
]  # fmt: skip
# What a run with few rounds takes: one of each sort.
QUICK = ("288/32 lognormal 1.0", "288/96 lognormal 1.0", "288/144 lognormal 0.5",
         "288/144 zipf 1.0", "strict 288/144 lognormal 1.0", "48/16 gpt-oss-20b")  # fmt: skip


def is_here(load: str) -> bool:
    """Whether a measured load lies beside this checkout."""
    return (DATA / f"{load}.npz").is_file()


def shapes(quick: bool = False) -> list[Shape]:
    """Return all shapes whose loads are here: quality depends on the effort in each of them."""
    every = SHAPES + [shape for shape in SHAPES_MEASURED if is_here(shape.load)]
    return [shape for shape in every if shape.name in QUICK or not quick]


def main_cases(quick: bool = False) -> list[Case]:
    """Return the loads of the main table, in DeepSeek-V3's shape, and one on 4 nodes."""
    return [
        *(Shape(load).case(name=load) for load in ("lognormal 0.5", "lognormal 1.0", "zipf 1.0")),
        *(Shape("calibrated").case(seed, f"calibrated, seed {seed}")
          for seed in range(1 if quick else 3)),
        Shape("calibrated", strict=True).case(name="calibrated, 8 groups on 4 nodes"),
    ]  # fmt: skip


def real_cases() -> list[Case]:
    """Return the measured loads, each at the first shape that fits its model."""
    first = {shape.load: shape for shape in reversed(SHAPES_MEASURED)}
    return [first[load].case(name=load) for load in MEASURED if is_here(load)]


SHORT = 8  # windows below which a trace says little
LONG, SEEDS = 24, (0, 1, 2)  # windows and seeds of synthetic traces
ORDERS = {"load": "in turn", "load_mixed": "mixed"}
# Windows merged into one, orders, slots by GPUs.
TRACES = {
    "gpt-oss-20b": (10, ORDERS, {8: 40, 16: 48, 32: 64}),
    "deepseek-v2-lite": (2, ORDERS, {8: 72, 16: 80, 32: 96}),
    "qwen3-30b-a3b": (1, ("load",), {8: 144, 16: 144, 32: 160}),
    "olmoe-domains": (1, ("load",), {8: 72, 16: 80, 32: 96}),
}


@dataclass(frozen=True)
class Drift:
    """A trace [T, L, E] on a cluster, in windows of a size that an engine would plan for."""

    name: str
    trace: NDArray[np.float64]
    cluster: Cluster
    real: bool = True

    @property
    def is_short(self) -> bool:
        """Whether it has too few windows to judge by."""
        return len(self.trace) < SHORT

    @property
    def warm(self) -> int:
        """Windows seen before the first one is served."""
        return 2 if self.is_short else 4


def drifts(quick: bool = False) -> Iterator[Drift]:
    """Yield every trace on every cluster: the measured ones that are here, and synthetic ones."""
    for name in filter(is_here, MEASURED):
        merge, orders, sizes = TRACES[name]
        with np.load(DATA / f"{name}.npz") as arrays:
            for order in orders:
                trace = merged(arrays[order].astype(float), merge)
                told = f"{name} {ORDERS[order]}" if len(orders) > 1 else name
                for gpus, slots in list(sizes.items())[: 1 if quick else None]:
                    yield Drift(told, trace, Cluster(gpus, num_slots=slots))
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    for seed in SEEDS[: 1 if quick else None]:
        trace = synthetic_trace(SHORT if quick else LONG, seed=seed).astype(float)
        yield Drift(f"synthetic 58 x 256, seed {seed}", trace, cluster, real=False)


def merged(trace: NDArray[np.float64], windows: int) -> NDArray[np.float64]:
    """Sum every so many windows into one; those that are left over at the end are not used."""
    count = len(trace) // windows
    parts = trace[: count * windows].reshape(count, windows, *trace.shape[1:])
    return np.asarray(parts.sum(axis=1))


SHUFFLED = {"gpt-oss-20b": ("request", 64, 10240, {16: 48}),
            "deepseek-v2-lite": ("sequence", 1, 2048, {16: 80})}  # fmt: skip


def shuffled(seeds: int) -> Iterator[Drift]:
    """Yield the measured traces with their requests in other orders, drawn by seed.

    So many requests at a time, a token of each in turn, in windows of so many tokens.
    """
    for name in filter(is_here, SHUFFLED):
        key, beside, tokens, sizes = SHUFFLED[name]
        with np.load(DATA / f"{name}.npz") as arrays:
            request, topk, E = arrays[key], arrays["topk"], arrays["load"].shape[2]
        place = np.zeros(len(request), np.int64)  # of a token in its request
        for number in np.unique(request):
            own = np.flatnonzero(request == number)
            place[own] = np.arange(own.size)
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(int(request.max()) + 1)[request]
            chosen = topk[np.lexsort((order, place, order // beside))]
            windows = [counted(chosen[first : first + tokens], E)
                       for first in range(0, len(chosen) - tokens + 1, tokens)]  # fmt: skip
            for gpus, slots in sizes.items():
                cluster = Cluster(gpus, num_slots=slots)
                yield Drift(f"{name} shuffled, seed {seed}", np.stack(windows), cluster)


def counted(topk: NDArray[Any], num_experts: int) -> NDArray[np.float64]:
    """Count the tokens of each expert in each layer, [L, E], of experts [tokens, L, k]."""
    counts = [np.bincount(topk[:, layer].ravel(), minlength=num_experts)
              for layer in range(topk.shape[1])]  # fmt: skip
    return np.array(counts, np.float64)


def other_domains(seed: int, windows: int = 14, layers: int = 8) -> Drift:
    """Return a trace of which each window is another domain: 288 slots on 32 GPUs.

    The logarithm of an expert's popularity is normal; .7 of its variance stays, .3 is drawn anew.
    """
    rng = np.random.default_rng(seed)
    stays = rng.normal(0.0, np.sqrt(0.7), (layers, NUM_EXPERTS))
    trace = []
    for _ in range(windows):
        weight = np.exp(stays + rng.normal(0.0, np.sqrt(0.3), stays.shape))
        share = weight / weight.sum(axis=1, keepdims=True)
        trace.append([rng.multinomial(8 * 4096, row) for row in share])
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    return Drift(f"other domains, seed {seed}", np.array(trace, float), cluster, real=False)
