"""What one rank does, for tests that start several: plan a few requests, print the digest.

``python rank_plans.py small`` keeps to what the interpreter can do without compiled kernels.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from evenload.engines.common.carried import EMPTY
from evenload.engines.common.options import read_options
from evenload.engines.common.plan_map import Request, plan_map
from evenload.engines.common.selftest import problems

LARGE = ((58, 256, 288, 32, 4, 8), (5, 64, 96, 32, 1, 1), (16, 128, 160, 16, 2, 8))


def requests(small: bool) -> list[Request]:
    """Return requests that no rank's own state goes into."""
    made = list(problems())
    if small:
        return made
    rng = np.random.default_rng(17)
    for L, E, slots, ranks, nodes, groups in LARGE:
        load = rng.integers(0, 1000, (L, E)) ** 2 * rng.integers(1, 40, (L, E))
        old = np.tile(np.arange(slots) % E, (L, 1))
        made.append(Request(load, old, slots, groups, nodes, ranks))
        came = old.copy()
        came[:, -2 * slots // ranks :] = EMPTY
        made.append(Request(load.astype(np.float32), came, slots, groups, nodes, ranks))
    return made


def main() -> None:
    """Print the digest of all plans."""
    options, sha = read_options(), hashlib.sha256()
    for request in requests("small" in sys.argv):
        sha.update(plan_map(request, options).map.tobytes())
    sys.stdout.write(sha.hexdigest() + "\n")


if __name__ == "__main__":
    main()
