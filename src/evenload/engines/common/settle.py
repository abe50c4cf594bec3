"""What may differ between ranks is settled once, at registration, before anything is served."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from evenload.engines.common.options import Options, default_options, read_options


@dataclass(frozen=True)
class Settled:
    """What a process found out about itself.

    Parameters
    ----------
    options : Options
        The user's; the defaults where those could not be read.
    failure : str
        Why the engine's own policy stays; empty where evenload plans.
    """

    options: Options
    failure: str = ""

    @property
    def fallen_back(self) -> bool:
        """Whether the engine's own policy stays."""
        return bool(self.failure)


def settle(
    engine: str, logger: logging.Logger, also: Callable[[Options], object] | None = None
) -> Settled:
    """Read the options and run the self-test; say in the engine's log what will plan.

    Any failure whatever ends here: an exception that left a plug-in would end the engine.

    Parameters
    ----------
    engine : str
        For the log.
    logger : logging.Logger
        One that the engine shows.
    also : callable, optional
        Tried after the self-test: what only this engine's policy does.

    Raises
    ------
    RuntimeError
        If the test fails and the options say ``on_failure = "raise"``.
    """
    start = time.perf_counter()
    options = default_options()
    try:
        options = read_options()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _test(options)
            if also is not None:
                also(options)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if "raise" in (options.on_failure, os.environ.get("EVENLOAD_ON_FAILURE")):
            raise RuntimeError(f"evenload cannot plan for {engine}: {reason}") from error
        logger.warning("evenload: the policy of %s itself stays, since %s", engine, reason)
        return Settled(options, reason)
    for text in sorted({str(warning.message) for warning in said}):
        logger.warning("evenload: %s", text)
    kind = "placement" if options.placement else "solver"
    logger.info(
        "evenload: %s %s plans for %s (self-test passed, %.1f s)",
        kind, options.what_plans, engine, time.perf_counter() - start,
    )  # fmt: skip
    return Settled(options)


def _test(options: Options) -> None:
    from evenload.engines.common.selftest import self_test

    self_test(options)
