"""The named problems that planners are compared on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload import Cluster
from evenload.synth import lognormal_load, synthetic_load, zipf_load

# Real loads lie beside a development checkout only; without them that part is skipped.
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

NUM_LAYERS, NUM_EXPERTS, NUM_SLOTS, NUM_GPUS = 58, 256, 288, 32


@dataclass(frozen=True)
class Case:
    """A load and the cluster it is placed on.

    Attributes
    ----------
    name : str
        Name in the tables.
    load : integer or float ndarray, [L, E]
        Tokens of each expert.
    cluster : Cluster
        Where the experts go.
    num_groups : int
        Groups of experts that stay on one node; 1 for none.
    """

    name: str
    load: NDArray[Any]
    cluster: Cluster
    num_groups: int = 1

    @property
    def arguments(self) -> tuple[NDArray[Any], int, int, int, int]:
        """Arguments of `benchmarks.peers.Planner.plan`."""
        cluster = self.cluster
        return (
            self.load,
            cluster.num_slots,
            self.num_groups,
            cluster.num_nodes,
            cluster.num_gpus,
        )


def main_cases(quick: bool = False) -> list[Case]:
    """Return the loads of the main table, in DeepSeek-V3's shape, and one on 4 nodes."""
    shape = (NUM_LAYERS, NUM_EXPERTS)
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    nodes = Cluster(NUM_GPUS, num_nodes=4, num_slots=NUM_SLOTS)
    return [
        Case("lognormal 0.5", lognormal_load(*shape, 0.5, seed=0), cluster),
        Case("lognormal 1.0", lognormal_load(*shape, 1.0, seed=0), cluster),
        Case("zipf 1.0", zipf_load(*shape, 1.0, seed=0), cluster),
        *(
            Case(f"calibrated, seed {seed}", synthetic_load(*shape, seed=seed), cluster)
            for seed in range(1 if quick else 3)
        ),
        Case("calibrated, 8 groups on 4 nodes", synthetic_load(*shape, seed=0), nodes, 8),
    ]


def real_cases() -> list[Case]:
    """Return the measured loads, each at a size that fits its model; none where they are absent."""
    sizes = {
        "gpt-oss-20b": (8, 40),
        "deepseek-v2-lite": (8, 72),
        "qwen3-30b-a3b": (16, 160),
        "olmoe-domains": (8, 72),
    }
    return [
        Case(name, read_real(name), Cluster(gpus, num_slots=slots))
        for name, (gpus, slots) in sizes.items()
        if real_is_here(name)
    ]


MEASURED_NAMES = ("gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b", "olmoe-domains")


def real_is_here(name: str) -> bool:
    """Whether a measured load lies beside this checkout."""
    return (DATA / f"{name}.npz").is_file()


def read_real(name: str) -> NDArray[Any]:
    """Return a measured load, [L, E]."""
    with np.load(DATA / f"{name}.npz") as arrays:
        load: NDArray[Any] = arrays["load"].sum(axis=0)  # over windows
    return load
