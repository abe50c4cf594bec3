"""Compare the Triton kernel of `evenload.splitting` with the compiled loops: a process of its own.

Triton reads TRITON_INTERPRET when it is first imported, which other tests of a session do.
"""

import numpy as np
import torch

from evenload import Cluster, Placement
from evenload.splitting import WaterFilling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def compare(seed: int) -> None:
    """Compare the quotas of a random placement, on GPUs that may differ or be gone."""
    rng = np.random.default_rng(seed)
    G, K, L = int(rng.integers(1, 9)), int(rng.integers(1, 5)), int(rng.integers(1, 4))
    alive = rng.random(G) < 0.8
    alive[0] = True
    speed = rng.choice([1.0, 0.7, 2.0], G) if seed % 2 else None
    cluster = Cluster(G, slots_per_gpu=K, speed=speed, alive=alive)
    S = cluster.num_living_slots
    E = int(rng.integers(1, S + 1))
    rows = np.full((L, cluster.num_slots), -1)
    for row in rows:
        row[cluster.living_slot] = rng.permutation(np.r_[np.arange(E), rng.integers(0, E, S - E)])
    filling = WaterFilling(Placement(rows, cluster, E), rounds=int(rng.integers(1, 6)))
    counts = rng.integers(0, [3, 200, 2**33][seed % 3], (L, E))
    small = torch.tensor(counts % 2**24)
    for given in (torch.tensor(counts), small.int(), small.float()):
        found = filling.quotas(given.to(DEVICE), backend="triton").cpu()
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), filling.quotas(given))


if __name__ == "__main__":
    for seed in range(12):
        compare(seed)
