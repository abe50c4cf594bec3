"""Water-filling in place of SGLang's linear program: ``EVENLOAD_SGLANG_DISPATCH=waterfill``.

With ``--ep-dispatch-algorithm lp`` SGLang counts the tokens of every batch, adds the counts up over
all ranks, and every rank solves the same program for itself. All of that stays but the solver. Ours
needs neither Hopper GPUs nor Math-DX, and gives the same whole numbers on every rank.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from evenload.plugins.settings import PREFIX, read_settings
from evenload.plugins.signature import what_differs

SOLVER = "sglang.srt.eplb.lplb_solver.LPLBSolver"
WARMUP = "sglang.kernels.ops.lplb.torch_solver.warmup"
log = logging.getLogger("sglang.evenload")


def register() -> None:
    """Register the hooks, where a setting may ask for them.

    Where SGLang's solver is not what it was in the release that this is written for, a server that
    asks for water-filling does not start.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from evenload.plugins.sglang import found

    if not {f"{PREFIX}SGLANG_DISPATCH", f"{PREFIX}OPTIONS"} & os.environ.keys():
        return
    hooks: dict[str, tuple[Callable[..., Any], Any, int]] = {
        f"{SOLVER}.__init__": (prepare, HookType.AFTER, 1),
        f"{SOLVER}._solve": (solve, HookType.AROUND, 1),
        WARMUP: (warm_up, HookType.AROUND, 1),
    }
    differs = [what_differs(name, found(name), hook, given)
               for name, (hook, _, given) in hooks.items()]  # fmt: skip
    why = "; ".join(filter(None, differs))
    if why:
        log.warning("evenload: no water-filling, because %s", why)
        hooks = {f"{SOLVER}.__init__": (lambda *_, **__: refuse(why), HookType.BEFORE, 0)}
    for name, (hook, kind, _) in hooks.items():
        HookRegistry.register(name, hook, kind)


def is_on() -> bool:
    """Whether batches are split by water-filling; settings that cannot be read are an error."""
    return read_settings().sglang_dispatch == "waterfill"


def refuse(why: str) -> None:
    """Raise `RuntimeError` where water-filling is asked for."""
    if is_on():
        raise RuntimeError(
            f"evenload cannot split batches, because {why}; use a release of evenload for this "
            f"SGLang, or {PREFIX}SGLANG_DISPATCH=lp"
        )


def warm_up(original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Compile SGLang's solver, if it is to run."""
    if not is_on():
        original(*args, **kwargs)


def prepare(
    _: None,
    self: Any,
    phy2log: Any,
    log2phy: Any,
    num_gpus: int,
    ep_group: Any = None,
    logical_to_all_physical_map_num_valid: Any = None,
) -> None:
    """Work out the tables of a layer: at the start, and after every rebalance.

    All replicas take part, as in SGLang's program, also those that this rank's table `log2phy` does
    not have. Elastic ranks are a `ValueError`: slots of those that are gone look alive here.
    """
    del ep_group, logical_to_all_physical_map_num_valid
    if not is_on():
        return
    from sglang.srt.runtime_context import get_exec

    if get_exec().moe.elastic_ep_backend is not None:
        raise ValueError(
            f"{PREFIX}SGLANG_DISPATCH=waterfill is not for --elastic-ep-backend, whose ranks may "
            f"go; use {PREFIX}SGLANG_DISPATCH=lp"
        )
    import numpy as np

    from evenload.cluster import Cluster
    from evenload.placement import Placement
    from evenload.splitting import WaterFilling
    from evenload.splitting.tensors import find, to_device

    table = log2phy.cpu().numpy()
    cluster = Cluster(num_gpus, num_slots=phy2log.numel())
    filling = WaterFilling(Placement(phy2log.cpu().numpy(), cluster, len(table)))
    slots = filling.placement.logical_to_physical[0]
    match = (slots[:, :, None] == table[:, None, :]) & (slots[:, :, None] >= 0)
    there = np.arange(table.size).reshape(len(table), 1, -1)
    place = np.where(match.any(2), (match * there).sum(2), table.size).ravel()
    schedule = filling.schedule
    in_table = schedule._replace(place=np.r_[place, table.size][schedule.place])
    tables = to_device(in_table, phy2log.device)
    self._log2phy_prob.zero_()
    out = self._log2phy_prob.unsqueeze(0)
    fill = find(None, phy2log.device, num_gpus)
    self._evenload_fill = lambda counts: fill(counts.unsqueeze(0), tables, filling.rounds, out)


def solve(original: Callable[..., Any], self: Any, global_counts: Any) -> Any:
    """Return how many tokens each replica gets, float32 [E, X], by the counts [E] of all ranks."""
    fill = getattr(self, "_evenload_fill", None)
    if fill is None:
        return original(self, global_counts)
    fill(global_counts)
    return self._log2phy_prob
