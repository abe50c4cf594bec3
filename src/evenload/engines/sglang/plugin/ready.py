"""What a rank settles before it serves: its options, and that it can plan."""

from __future__ import annotations

import logging
from functools import cache

from evenload.engines.common.options import Options
from evenload.engines.common.settle import Settled, settle

log = logging.getLogger("sglang.evenload")


@cache
def readiness() -> Settled:
    """Read the options, compile and test; once a process, and told in the log.

    Raises
    ------
    RuntimeError
        If it failed, and the options say to raise, or the ranks cannot compare their maps.
    """
    from evenload.engines.sglang.plugin import engine

    settled = settle("SGLang", log, _test)
    if settled.fallen_back and not engine.compares():
        raise RuntimeError(
            f"evenload cannot plan on this rank: {settled.failure}; elastic ranks do not compare "
            "their maps, so it must not plan otherwise than the others"
        )
    return settled


def _test(options: Options) -> None:
    """Plan under several windows, with and without a map that runs, groups, and a rank gone."""
    import numpy as np

    from evenload.engines.sglang.plugin.policy import Question, answer

    if options.placement:
        raise ValueError(
            f"EVENLOAD_PLACEMENT={options.placement} is for vLLM; use SGLang's own "
            "--init-expert-location"
        )
    windows = np.arange(3 * 2 * 8).reshape(3, 2, 8) * 7 % 23
    linear = np.tile(np.arange(12) % 8, (2, 1))
    for current in (None, linear):
        for groups in (1, 4):
            answer(Question(windows, 12, 3, 2, groups, current), options)
        answer(Question(windows, 12, 3, 1, 1, current, (True, False, True, True)), options)
