"""What a rank finds out about itself at registration, before anything is served."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable

import numpy as np

from evenload.ballots import digest
from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.plugins.agreement import fingerprint
from evenload.plugins.plan import Outcome, Request, plan_map
from evenload.plugins.planner import Planner
from evenload.plugins.settings import Settings, read_settings
from evenload.threads import use_at_most

ROUNDING = 1e-9
THREADS = 2  # all ranks of a node plan at the same time


def problems() -> tuple[Request, ...]:
    """Return small problems that take every way through a plan.

    A running map; groups on two nodes; ranks that come, that go, and that are gone; a layer without
    load; several windows; none before.
    """
    spread = np.arange(3 * 16).reshape(3, 16)
    load = (spread * spread * 7 % 97 + 1 + 300 * (spread % 13 == 5))[None]
    quiet = load * np.array([[1], [0], [1]])
    windows = np.concatenate([load, np.roll(load, 3, axis=2), quiet])
    linear = np.tile(np.arange(24) % 16, (3, 1))
    grown = np.where(np.arange(24) < 18, linear, EMPTY)
    wide = np.tile(np.arange(36) % 16, (3, 1))
    gone = (True, False, True, True)
    return (
        Request(load, linear, 24, 4),
        Request(load, linear, 24, 4, 2, 4),
        Request(quiet, grown, 24, 4),
        Request(load, wide, 24, 4, 2, 3),
        Request(load, None, 24, 4),
        Request(windows, linear, 24, 4),
        Request(windows, None, 24, 4, 2, 4),
        Request(windows, linear, 24, 4, alive=gone),
        Request(windows, None, 24, 4, alive=gone),
    )


def self_test(settings: Settings) -> bytes:
    """Compile every kernel, plan small problems, and return the digest of all plans, 16 bytes.

    Ranks that plan alike have the same. The user's settings are tried too, except for a placement
    that was planned ahead.

    Raises
    ------
    ValueError
        If a plan is none, one by the default settings is worse than it has to be, or the settings
        are ones that a plan cannot be made with.
    ImportError
        If a dependency is missing.
    """
    from evenload import warmup

    warmup()
    plain, found = Settings(), []
    for tried in (plain,) if settings.placement else (plain, settings):
        for number, request in enumerate(problems()):
            outcome = plan_map(request, tried)
            wrong = _not_a_plan(request, outcome)
            if tried is plain:
                wrong = wrong or _worse_than_need_be(request, outcome)
            if wrong:
                raise ValueError(
                    f"the self-test's plan {number} by solver={tried.solver!r} {wrong}; use "
                    "another solver, or install evenload and its dependencies anew"
                )
            found.append(outcome.map.tobytes())
    return digest(*found)


def _not_a_plan(request: Request, outcome: Outcome) -> str:
    """Say why a map cannot be taken: an expert is missing, say, or a kept one changed its slot."""
    try:
        Placement(outcome.map, request.cluster, request.windows.shape[2])
    except ValueError as error:
        return f"is none: {error}"
    if (outcome.map[~request.sound] != request.kept[~request.sound]).any():
        return "changes a layer without load"
    if request.current is None:
        return ""
    shape = (len(outcome.map), request.num_ranks, -1)
    new, old = outcome.map.reshape(shape), request.old.reshape(shape)
    for expert in range(request.windows.shape[2]):
        has, had = new == expert, old == expert
        if ((has & had).sum(axis=2) < np.minimum(has.sum(axis=2), had.sum(axis=2))).any():
            return f"moves expert {expert} from slot to slot of a rank"
    return ""


def _worse_than_need_be(request: Request, outcome: Outcome) -> str:
    """Say what is worse than in what runs, or than the greedy plan where nothing does."""
    measure = "what runs", outcome.before
    if request.current is None:
        measure = "the greedy one", plan_map(request, Settings(solver="greedy")).after
    elif request.alive or request.old.shape != request.current.shape or EMPTY in request.old:
        measure = "nothing", 0.0  # what runs is on other ranks
    if len(request.windows) == 1 and outcome.after < measure[1] - ROUNDING:
        return f"has balancedness {outcome.after:.6f}, and {measure[0]} {measure[1]:.6f}"
    ranks = np.sort(outcome.map[request.sound].reshape(-1, request.cluster.slots_per_gpu))
    if ((ranks[:, 1:] == ranks[:, :-1]) & (ranks[:, 1:] != EMPTY)).any():
        return "has an expert twice on a rank, which can be avoided"
    return ""


def planner_for(
    engine: str, logger: logging.Logger, check: Callable[[Settings], object] | None = None
) -> Planner:
    """Read the settings and run the self-test; say in the engine's log what will plan.

    Any failure whatever ends here: an exception that left a plug-in would end the engine. Only
    where the settings say ``on_failure = "raise"`` it is a `RuntimeError`. `check` raises
    `ValueError` for settings that this engine does not take.
    """
    start = time.perf_counter()
    use_at_most(THREADS)
    settings = Settings()
    try:
        settings = read_settings()
        if check is not None:
            check(settings)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            policy = digest(fingerprint(settings), self_test(settings))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if "raise" in (settings.on_failure, os.environ.get("EVENLOAD_ON_FAILURE")):
            raise RuntimeError(f"evenload cannot plan for {engine}: {reason}") from error
        logger.warning("evenload: the policy of %s itself stays, since %s", engine, reason)
        return Planner(engine, settings, failure=reason)
    for text in sorted({str(warning.message) for warning in said}):
        logger.warning("evenload: %s", text)
    planner = Planner(engine, settings, policy)
    kind = "placement" if settings.placement else "solver"
    logger.info(
        "evenload: %s %s plans for %s (self-test passed, %.1f s)",
        kind, planner.name, engine, time.perf_counter() - start,
    )  # fmt: skip
    return planner
