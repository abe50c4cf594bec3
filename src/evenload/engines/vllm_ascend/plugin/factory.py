"""Which policy all ranks of vllm-ascend run: agreed on when they make it, before they serve."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evenload.engines.common.agree import digest
from evenload.engines.common.options import Options
from evenload.engines.common.ranks import Ranks, reachable
from evenload.engines.common.settle import Settled
from evenload.engines.vllm_ascend.plugin.policy import EvenloadPolicy

logger = logging.getLogger("vllm.evenload")


@dataclass(frozen=True, eq=False)
class Factory:
    """Stands in for ``PolicyFactory.generate_policy``.

    The policy itself runs in a process beside each rank that no group reaches, so plans cannot be
    compared there. What can be is the ranks' settings and self-tests, in the ranks' own processes
    when each makes its policy.

    Parameters
    ----------
    own : callable
        What it stands in for.
    settled : Settled
        What this rank found out about itself.
    """

    own: Callable[..., Any]
    settled: Settled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return evenload if it plans alike on every rank, else the engine's own policy on all.

        Raises
        ------
        RuntimeError
            If a rank does not compare in time.
        """
        passed = not self.settled.fallen_back
        ours = digest(self.settled.options.fingerprint, b"ok" if passed else b"failed")
        group = _ranks(self.settled.options)
        said = [ours] if group is None else group.gather(ours)
        if passed and all(one == ours for one in said):
            return EvenloadPolicy(self.settled.options)
        if passed:
            logger.error("evenload: ranks differ in options or self-test; the engine's own policy "
                         "stays on all of them")  # fmt: skip
        return self.own(*args, **kwargs)


def _ranks(options: Options) -> Ranks | None:
    """Return vllm-ascend's group for balancing, None where there is none or only one rank."""
    if not options.agree:
        return None
    try:
        from vllm_ascend.distributed.parallel_state import get_dynamic_eplb_group

        group = get_dynamic_eplb_group().cpu_group
    except (ImportError, AssertionError, AttributeError):
        return None
    return reachable(group, options)
