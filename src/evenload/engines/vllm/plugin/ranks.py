"""The other ranks of vLLM's expert-parallel group, where they can be reached from a policy."""

from __future__ import annotations

from evenload.engines.common.options import Options
from evenload.engines.common.ranks import Ranks, reachable


def ranks(options: Options) -> Ranks | None:
    """Return the group that vLLM balances over; None for one rank, or if nobody is to compare.

    vLLM makes that group on every rank or on none, and runs the policy on every member of it, in
    the same order as all else that uses it.
    """
    if not options.agree:
        return None
    try:
        from vllm.distributed.parallel_state import get_eplb_group

        group = get_eplb_group().cpu_group
    except (ImportError, AssertionError):  # another release; or no group here, as in a test
        return None
    return reachable(group, options)
