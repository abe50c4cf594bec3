"""What one rank does, for tests that start several: plan a few requests, print digests.

The first digest is of what the self-test plans. ``python rank_plans.py small`` keeps to what the
interpreter can do without compiled kernels.
"""

from __future__ import annotations

import sys

import numpy as np

from evenload.ballots import digest
from evenload.plugins.plan import EMPTY, Request, plan_map
from evenload.plugins.selftest import problems
from evenload.plugins.settings import read_settings

LARGE = ((58, 256, 288, 32, 4, 8), (5, 64, 96, 32, 1, 1), (16, 128, 160, 16, 2, 8))
SMALL = ((2, 16, 24, 4, 2, 4),)


def requests(shapes) -> list[Request]:
    """Return requests that no rank's own state goes into."""
    made, rng = [], np.random.default_rng(17)
    for L, E, slots, ranks, nodes, groups in shapes:
        load = rng.integers(0, 1000, (L, E)) ** 2 * rng.integers(1, 40, (L, E))
        old = np.tile(np.arange(slots) % E, (L, 1))
        made.append(Request(load[None], old, slots, ranks, nodes, groups))
        came = old.copy()
        came[:, -2 * slots // ranks :] = EMPTY
        made.append(Request(load[None].astype(np.float32), came, slots, ranks, nodes, groups))
    return made


def main() -> None:
    """Print the digest of all plans."""
    settings = read_settings()
    parts = [problems(), requests(LARGE)]
    if "small" in sys.argv:
        parts[1] = requests(SMALL)
    for part in parts:
        plans = digest(*(plan_map(request, settings).map.tobytes() for request in part))
        sys.stdout.write(f"{plans.hex()}\n")


if __name__ == "__main__":
    main()
