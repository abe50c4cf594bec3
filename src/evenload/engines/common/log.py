"""The line that each rebalance leaves in the engine's log."""

from __future__ import annotations

import logging

from evenload.engines.common.plan_map import NO_LOAD, Planned


def tell(name: str, planned: Planned, seconds: float, logger: logging.Logger, first: bool) -> None:
    """Log what a rebalance came to; ranks but the first only where debugging is on.

    Parameters
    ----------
    name : str
        What planned.
    planned : Planned
    seconds : float
        That it took.
    logger : logging.Logger
    first : bool
        Whether this is the rank that speaks for all.
    """
    milliseconds = 1e3 * seconds
    if planned.kept:
        level = logging.INFO if planned.kept == NO_LOAD else logging.ERROR
        logger.log(
            level if first else logging.DEBUG,
            "evenload (%s): the old map stays: %s (%.1f ms)", name, planned.kept, milliseconds,
        )  # fmt: skip
        return
    logger.log(
        logging.INFO if first else logging.DEBUG,
        "evenload (%s): balancedness %.4f -> %.4f, %d moves, %.1f ms",
        name, planned.before, planned.after, planned.moves, milliseconds,
    )  # fmt: skip
