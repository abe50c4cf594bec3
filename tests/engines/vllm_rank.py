"""One rank of a group that rebalances as vLLM does: ``vllm_rank.py RANK RANKS STORE HOW...``.

HOW, one for each round, is ``well``, ``failed`` (its self-test fails), ``other`` (its self-test
makes other plans) or ``absent`` (nobody asked for evenload there); or of a rank that serves, since
nothing is registered anew: ``serves``, ``late`` (it comes when the others have waited too long),
``raises`` (its plan fails), ``killed`` (its kill switch is on), ``cut`` (the store is gone for it
once it has handed in its second ballot) or ``dies`` (between its two ballots). Prints ``SAID`` and
the digest of the map, ``old``, or ``raised`` and the reason after each round.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.distributed as dist

from evenload.plugins.plan import plan_map

ABSENT = 40.0  # seconds that a rank lives on that does not compare
SERVES = ("serves", "late", "raises", "dies", "killed", "cut")
SWITCH = "EVENLOAD_KILL_SWITCH"
LATE = 14.0  # seconds, of which the others wait 10


def register(how: str) -> None:
    """Let vLLM load its plug-ins as a process does that just started."""
    from vllm import plugins
    from vllm.distributed.eplb.eplb_state import EPLB_POLICIES
    from vllm.distributed.eplb.policy import DefaultEplbPolicy

    from evenload.plugins import selftest

    os.environ["EVENLOAD_VLLM"] = "0" if how == "absent" else "1"
    changed = {
        "failed": {"_not_a_plan": lambda *_: "is none"},
        "other": {"self_test": lambda settings: b"other"},
    }
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    plugins.plugins_loaded = False
    with patch.dict(vars(selftest), changed.get(how, {})):
        plugins.load_general_plugins()


def fail(request, settings):
    """Plan nothing: what memory that runs out does."""
    raise MemoryError("no room")


def die(request, settings):
    """End this rank where it would plan."""
    os._exit(1)


class CutOff:
    """A store that is gone once two ballots were handed in."""

    def __init__(self, store):
        self.store, self.left = store, 2

    def __getattr__(self, name):
        if self.left == 0:
            raise RuntimeError("the store is gone")
        self.left -= name == "set"
        return getattr(self.store, name)


def plan(how: str) -> str:
    """Register unless the rank serves, and rebalance once in the group."""
    from evenload.plugins import planner

    if how not in SERVES:
        register(how)
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb.eplb_state import EPLB_POLICIES

    if how == "late":
        time.sleep(LATE)
    switch = Path(os.environ[SWITCH])
    if how == "killed":
        switch.touch()
    peers = getattr(parallel_state._EPLB, "_evenload_peers", None)
    store = getattr(peers, "store", None)
    if how == "cut":
        peers.store = CutOff(store)
    planner.plan_map = {"raises": fail, "dies": die}.get(how, plan_map)
    load = (torch.arange(2 * 16) ** 2 % 37 + 1).reshape(2, 16)
    old = (torch.arange(24) % 16).repeat(2, 1)
    try:
        placed = EPLB_POLICIES["default"].rebalance_experts(load, 24, 1, 1, 4, old)
    except RuntimeError as error:
        return f"raised {error}"
    finally:
        if how == "cut":
            peers.store = store
            time.sleep(LATE)  # the others still wait, and vLLM would wait for them
        switch.unlink(missing_ok=True)
    if torch.equal(placed, old):
        return "old"
    return hashlib.sha256(placed.numpy().tobytes()).hexdigest()


def main() -> None:
    """Join the group, plan, and say what came of it."""
    rank, ranks, store, *hows = sys.argv[1:]
    os.environ[SWITCH] = f"{store}.stop.{rank}"
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks),
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    from vllm.distributed import parallel_state

    parallel_state._EPLB = SimpleNamespace(cpu_group=dist.group.WORLD)
    for how in hows:
        said = plan(how)
        sys.stdout.write(f"\nSAID {said}\n")
        sys.stdout.flush()
    if "absent" in hows:
        time.sleep(ABSENT)  # it lives on, and does other things than compare
    os._exit(0)  # a group whose members did not all compare does not end well


if __name__ == "__main__":
    main()
