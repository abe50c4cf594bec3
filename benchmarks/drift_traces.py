"""The traces of `benchmarks.drift`, in windows of a size that an engine would plan for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.loads import DATA, NUM_GPUS, NUM_SLOTS, real_is_here
from evenload import Cluster
from evenload.synth import synthetic_trace

SHORT = 8  # windows below which a trace says little

# File, windows merged into one, orders, slots by GPUs.
REAL = (
    ("gpt-oss-20b", 10, ("load", "load_mixed"), {8: 40, 16: 48, 32: 64}),
    ("deepseek-v2-lite", 2, ("load", "load_mixed"), {8: 72, 16: 80, 32: 96}),
    ("qwen3-30b-a3b", 1, ("load",), {8: 144, 16: 144, 32: 160}),
    ("olmoe-domains", 1, ("load",), {8: 72, 16: 80, 32: 96}),
)
ORDERS = {"load": "in turn", "load_mixed": "mixed"}
LONG = 24  # windows of a synthetic trace
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Drift:
    """A trace on a cluster.

    Attributes
    ----------
    name : str
        Name in the tables.
    trace : ndarray, [T, L, E]
        Tokens.
    cluster : Cluster
    real : bool
        Whether it was measured.
    """

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


def drifts(quick: bool) -> Iterator[Drift]:
    """Yield every trace on every cluster: the measured ones that are here, and synthetic ones."""
    for name, merge, orders, sizes in REAL:
        if not real_is_here(name):
            continue
        with np.load(DATA / f"{name}.npz") as arrays:
            for order in orders:
                trace = merged(arrays[order].astype(float), merge)
                told = f"{name} {ORDERS[order]}" if len(orders) > 1 else name
                for gpus, slots in list(sizes.items())[: 1 if quick else None]:
                    yield Drift(told, trace, Cluster(gpus, num_slots=slots))
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    for seed in SEEDS[: 1 if quick else None]:
        long = synthetic_trace(SHORT if quick else LONG, seed=seed).astype(float)
        yield Drift(f"synthetic 58 x 256, seed {seed}", long, cluster, real=False)


def merged(trace: NDArray[np.float64], windows: int) -> NDArray[np.float64]:
    """Sum every so many windows into one; those that are left over at the end are not used."""
    count = len(trace) // windows
    return trace[: count * windows].reshape(count, windows, *trace.shape[1:]).sum(axis=1)
