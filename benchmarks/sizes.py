"""The problems whose quality depends on the effort: from many slots a GPU down to two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from benchmarks.loads import NUM_EXPERTS, NUM_LAYERS, Case, read_real, real_is_here
from evenload import Cluster
from evenload.synth import lognormal_load, synthetic_load, zipf_load

LOADS: dict[str, Callable[[int, int, int], NDArray[Any]]] = {
    "lognormal 0.5": lambda L, E, seed: lognormal_load(L, E, 0.5, seed=seed),
    "lognormal 1.0": lambda L, E, seed: lognormal_load(L, E, 1.0, seed=seed),
    "zipf 1.0": lambda L, E, seed: zipf_load(L, E, 1.0, seed=seed),
    "calibrated": lambda L, E, seed: synthetic_load(L, E, seed=seed),
}


@dataclass(frozen=True)
class Size:
    """Slots and GPUs, and the kind of load that is placed there.

    Attributes
    ----------
    load : str
        A name of `LOADS`, or the name of a measured load.
    slots, gpus : int
        Of one layer, S and G.
    strict : bool
        Whether 8 groups of experts stay on one of 4 nodes each.
    """

    load: str
    slots: int
    gpus: int
    strict: bool = False

    @property
    def name(self) -> str:
        """Name in the tables: ``slots/GPUs load``."""
        return f"{'strict ' if self.strict else ''}{self.slots}/{self.gpus} {self.load}"

    @property
    def slots_per_gpu(self) -> int:
        """Slots on each GPU, K."""
        return self.slots // self.gpus

    @property
    def is_drawn(self) -> bool:
        """Whether the load is synthetic, so that other seeds give other loads."""
        return self.load in LOADS

    def cases(self, seeds: int, num_layers: int = NUM_LAYERS) -> list[Case]:
        """Return one case a seed; a measured load is a single case, with its own layers."""
        cluster = Cluster(self.gpus, 4 if self.strict else 1, num_slots=self.slots)
        groups = 8 if self.strict else 1
        if not self.is_drawn:
            return [Case(self.name, read_real(self.load)[:num_layers], cluster, groups)]
        draw = LOADS[self.load]
        loads = [draw(num_layers, NUM_EXPERTS, seed) for seed in range(seeds)]
        return [Case(self.name, load, cluster, groups) for load in loads]


DRAWN = [
    *(Size(load, 288, 32) for load in ("lognormal 1.0", "calibrated")),
    Size("lognormal 1.0", 320, 64),
    *(Size(load, 288, 96) for load in ("lognormal 0.5", "lognormal 1.0", "calibrated", "zipf 1.0")),
    *(Size(load, 288, 144) for load in LOADS),
    *(Size(load, 320, 160) for load in ("lognormal 0.5", "lognormal 1.0", "zipf 1.0")),
    *(Size(load, 288, 32, True) for load in ("lognormal 0.5", "lognormal 1.0", "calibrated")),
    *(Size(load, 288, 144, True) for load in ("lognormal 0.5", "lognormal 1.0")),
]

MEASURED = [
    Size("gpt-oss-20b", 40, 8),
    Size("gpt-oss-20b", 48, 16),
    Size("deepseek-v2-lite", 72, 8),
    Size("deepseek-v2-lite", 96, 32),
    Size("qwen3-30b-a3b", 160, 16),
    Size("qwen3-30b-a3b", 192, 64),
    Size("olmoe-domains", 72, 8),
]

# What a run with few rounds takes: one of each sort.
QUICK = ("288/32 lognormal 1.0", "288/96 lognormal 1.0", "288/144 lognormal 0.5",
         "288/144 zipf 1.0", "strict 288/144 lognormal 1.0", "48/16 gpt-oss-20b")  # fmt: skip


def sizes(quick: bool = False) -> list[Size]:
    """Return all sizes whose loads are here: measured ones lie beside some checkouts only."""
    every = DRAWN + [size for size in MEASURED if real_is_here(size.load)]
    return [size for size in every if size.name in QUICK or not quick]
