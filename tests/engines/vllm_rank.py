"""One rank of a group that rebalances as vLLM does: ``vllm_rank.py RANK RANKS STORE ROUNDS``.

ROUNDS is JSON, one object a round, of which only `hows` has to be there: what each rank is like. In
a round with `settings` the rank registers evenload anew, as a process that just started, and runs
vLLM's profiling: it is ``well``, ``failed`` (its self-test fails), ``other`` (its self-test makes
other plans) or ``absent`` (nobody asked for evenload there). Without, it serves on: ``well``, or
one of `HOWS`, ``lost`` (it cannot reach the store), ``cut`` (nor once it has handed in its second
ballot), ``killed`` (its kill switch is on), or ``joins`` (it starts anew, and all make a new
group). Prints its log, then ``SAID`` and JSON after each round: the map, whether the weights are
what it says, whether the thread lives on, and what the engine was ended by.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.distributed as dist
import vllm_world as world

from evenload.plugins.peers import NEXT
from evenload.plugins.plan import plan_map

SWITCH = "EVENLOAD_KILL_SWITCH"
LATE = 14.0  # seconds, of which the others wait 10


def register(how: str, settings: dict[str, str]) -> None:
    """Let vLLM load its plug-ins as a process does that just started."""
    from vllm import plugins
    from vllm.distributed.eplb.eplb_state import EPLB_POLICIES
    from vllm.distributed.eplb.policy import DefaultEplbPolicy

    from evenload.plugins import selftest

    changed = {
        "failed": {"_not_a_plan": lambda *_: "is none"},
        "other": {"self_test": lambda settings: b"other"},
    }
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    plugins.plugins_loaded = False
    said = {**settings, "EVENLOAD_VLLM": "0" if how == "absent" else "1"}
    with patch.dict(os.environ, said), patch.dict(vars(selftest), changed.get(how, {})):
        plugins.load_general_plugins()


def fail(*_):
    """Plan nothing: what memory that runs out does."""
    raise MemoryError("no room")


def lose(*_):
    """Reach no store."""
    raise ConnectionError("the store is gone")


class CutOff:
    """A store that is gone once two ballots were handed in."""

    def __init__(self, store):
        self.store, self.left = store, 2

    def __getattr__(self, name):
        if self.left == 0:
            lose()
        return getattr(self.store, name)

    def set(self, key, value):
        if self.left == 0:
            lose()
        self.left -= key != NEXT
        self.store.set(key, value)


def late(request, settings):
    """Plan when the others have waited too long."""
    time.sleep(LATE)
    return plan_map(request, settings)


def differ(request, settings):
    """Plan something else."""
    outcome = plan_map(request, settings)
    return replace(outcome, map=outcome.map[::-1].copy())


def die(*_):
    """End this rank where it would plan, while the others compare."""
    os.kill(os.getpid(), signal.SIGKILL)


HOWS = {"raises": fail, "late": late, "differs": differ, "dies": die}


class Rank:
    """This rank's engine, from round to round."""

    def __init__(self) -> None:
        self.state = None

    def run(self, how: str, hows, settings=None, load=0, layers=6, stages=1, sync=False,
            spoilt=False):  # fmt: skip
        """Do one round."""
        from vllm.distributed.parallel_state import get_eplb_group

        from evenload.plugins import planner

        if settings is not None:
            register(how, settings)
            self.state = None
            self.state = world.start(layers, not sync, stages)
        elif "joins" in hows:
            world.regroup(self.state)
            if how == "joins":
                self._start_anew()
        model = world.model_of(self.state)
        if spoilt:
            model.communicator = world.Spoiling(model.communicator)
        switch = Path(os.environ[SWITCH])
        if how == "killed":
            switch.touch()
        with ExitStack() as stack:
            stack.enter_context(patch.dict(vars(planner), {"plan_map": HOWS.get(how, plan_map)}))
            if how in ("lost", "cut"):
                peers = get_eplb_group()._evenload_peers
                gone = CutOff(peers.store) if how == "cut" else SimpleNamespace(set=lose)
                stack.enter_context(patch.object(peers, "store", gone))
            stage = dist.get_rank() * stages // len(hows)
            world.serve(self.state, load_of(load + stage))
        switch.unlink(missing_ok=True)

    def _start_anew(self) -> None:
        from vllm.distributed.eplb.eplb_state import EPLB_POLICIES

        register("well", {})
        self.state.policy = EPLB_POLICIES["default"]

    def said(self, raised: str) -> str:
        """Tell what came of a round."""
        if self.state is None:
            return json.dumps({"raised": raised})
        verified = getattr(sys.modules["vllm.distributed.eplb.eplb_state"]._move_to_workspace,
                           "verifier", None)  # fmt: skip
        if verified and verified._thread:
            verified._thread.join(60)
        worker = self.state.async_worker
        return json.dumps({
            "raised": raised,
            "map": world.model_of(self.state).physical_to_logical_map.tolist(),
            "right": world.is_right(self.state),
            "alive": worker is None or worker.is_alive(),
        })  # fmt: skip


def load_of(seed: int) -> torch.Tensor:
    """Return tokens [L, E], another load for each seed."""
    return torch.randint(1, 30, (6, world.E), generator=torch.Generator().manual_seed(seed)) ** 3


def main() -> None:
    """Join the group, and say after each round what came of it."""
    number, ranks, store, rounds = sys.argv[1:]
    os.environ[SWITCH] = f"{store}.stop.{number}"
    world.join(int(number), int(ranks), store)
    log = logging.getLogger("vllm.evenload")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    rank = Rank()
    for told in json.loads(rounds):
        how, raised = told["hows"][int(number)], ""
        try:
            rank.run(how, **told)
        except Exception as error:  # what ends an engine
            raised = f"{type(error).__name__}: {error}"
            if rank.state is not None:
                rank.state.async_worker.join(60)  # it still compares
        sys.stdout.write(f"\nSAID {rank.said(raised)}\n")
        sys.stdout.flush()
        if raised and rank.state is not None:
            break  # the others are told by a connection that is gone
    os._exit(0)  # a group whose members did not all compare does not end well


if __name__ == "__main__":
    main()
