"""One rank of a group that rebalances as vLLM does: ``vllm_rank.py RANK RANKS STORE HOW``.

HOW is ``well``, ``failed`` (its self-test fails), ``other`` (its self-test makes other plans) or
``absent`` (nobody asked for evenload there).
Prints the digest of the map, or ``raised`` and the reason.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import torch
import torch.distributed as dist

ABSENT = 40.0  # seconds that a rank lives on that does not compare


def plan(how: str) -> str:
    """Register, and rebalance once in the group."""
    from evenload.plugins import selftest

    os.environ["EVENLOAD_VLLM"] = "0" if how == "absent" else "1"
    if how == "failed":
        selftest._not_a_plan = lambda *_: "is none"
    if how == "other":
        selftest.self_test = lambda settings: b"other"
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb.eplb_state import EPLB_POLICIES
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    parallel_state._EPLB = SimpleNamespace(cpu_group=dist.group.WORLD)
    load = (torch.arange(2 * 16) ** 2 % 37 + 1).reshape(2, 16)
    old = (torch.arange(24) % 16).repeat(2, 1)
    try:
        placed = EPLB_POLICIES["default"].rebalance_experts(load, 24, 1, 1, 4, old)
    except RuntimeError as error:
        return f"raised {error}"
    if torch.equal(placed, old):
        return "old"
    return hashlib.sha256(placed.numpy().tobytes()).hexdigest()


def main() -> None:
    """Join the group, plan, and say what came of it."""
    rank, ranks, store, how = sys.argv[1:]
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks),
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    said = plan(how)
    sys.stdout.write(f"\nSAID {said}\n")
    sys.stdout.flush()
    if how == "absent":
        time.sleep(ABSENT)  # it lives on, and does other things than compare
    os._exit(0)  # a group whose members did not all compare does not end well


if __name__ == "__main__":
    main()
