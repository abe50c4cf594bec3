"""What a rank makes sure of before it serves: that it plans as all others do."""

from __future__ import annotations

import numpy as np

from evenload.engines.common.agree import digest
from evenload.engines.common.carried import EMPTY
from evenload.engines.common.options import Options, default_options
from evenload.engines.common.plan_map import Request, plan_map
from evenload.engines.common.static_plan import static_plan

EXPECTED = "8a1e3541d697696a628cac1f44d01043"
"""Digest of the plans of `problems`; a change of a solver may change it, and every rank with it."""


def problems() -> tuple[Request, ...]:
    """Return small problems that take every way through a plan.

    A running map; groups on two nodes; ranks that come, and go; a layer without load; none before.
    """
    spread = np.arange(3 * 16).reshape(3, 16)
    load = spread * spread * 7 % 97 + 1 + 300 * (spread % 13 == 5)
    quiet = load * np.array([[1], [0], [1]])
    linear = np.tile(np.arange(24) % 16, (3, 1))
    grown = np.where(np.arange(24) < 18, linear, EMPTY)
    wide = np.tile(np.arange(36) % 16, (3, 1))
    return (
        Request(load, linear, 24, 1, 1, 4),
        Request(load, linear, 24, 4, 2, 4),
        Request(quiet, grown, 24, 1, 1, 4),
        Request(load, wide, 24, 3, 2, 4),
        Request(load, None, 24, 1, 1, 4),
    )


def plans_digest() -> str:
    """Plan the small problems with default options, and digest the maps."""
    plain = default_options()
    return digest(*(plan_map(problem, plain).map.tobytes() for problem in problems())).hex()


def self_test(options: Options) -> None:
    """Compile every kernel, plan small problems, and compare with the bytes that belong here.

    Parameters
    ----------
    options : Options
        Tried too, on the same problems; what comes of them is not compared. A placement planned
        ahead is read.

    Raises
    ------
    ValueError
        If the bytes differ, or the options are ones that a plan cannot be made with.
    ImportError
        If a dependency is missing.
    """
    from evenload.ahead import warmup

    warmup()
    found = plans_digest()
    if found != EXPECTED:
        raise ValueError(
            f"the self-test planned {found}, and {EXPECTED} belongs to this release; "
            "install evenload and its dependencies anew"
        )
    if options.placement:
        static_plan(options.placement)
        return
    for problem in problems():
        plan_map(problem, options)
