"""evenload inside SGLang: ``--eplb-algorithm evenload`` and ``evenload_hierarchical``.

SGLang loads `register` in each of its processes through the entry point group
``sglang.srt.plugins``. It hooks four functions and imports nothing else, so a server that asks for
another algorithm runs as without it.

SGLang looks a name up at the first rebalance only, and refuses none before that; with elastic
expert parallelism it refuses all but the two ``elasticity_aware`` names. It also goes on where a
plug-in raises at registration. So what must not happen while serving is looked for when the first
location of experts is computed: functions that take other arguments than evenload's hooks, and
ranks without evenload.

Every rank plans, on loads that SGLang has added up over all of them, and SGLang compares nothing;
so the ranks compare digests of their maps (docs, "Why ranks cannot disagree"). Elastic ranks come
and go, and which of them are there is each rank's own view, so those who see just each other
compare, and all others keep the map that runs. (Only after an elastic scale-up rank 0 plans alone,
and broadcasts.)

SGLang hands over the counts of up to 1000 passes. They become as many windows as `history` says,
and a plan has to hold under each, whatever their order: the buffer is circular, and its tensor does
not say where it begins. On recorded traffic this was better than planning for the sum, and as good
as a forecast from windows in order, which loses where the buffer begins in its middle.

Dense layers have rows without load: they keep what they have, as all layers do before there is
traffic. Slots of a rank that is gone hold expert 0, as SGLang has it; no replica is counted there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from evenload.plugins.moved import before_update, sglang_model
from evenload.plugins.settings import Settings, is_asked_for
from evenload.plugins.signature import what_differs

if TYPE_CHECKING:
    from evenload.plugins.peers import Peers
    from evenload.plugins.planner import Planner

EPLB = "sglang.srt.eplb"
OURS = ("evenload", "evenload_hierarchical")
ELASTIC = ("elasticity_aware", "elasticity_aware_hierarchical")
FILLER = 0  # in slots of ranks that are gone, as SGLang's own algorithm has it
log = logging.getLogger("sglang.evenload")


def register() -> None:
    """Register the hooks; SGLang's plug-in loader calls this.

    Where a function of this release takes other arguments than its hook, a server that asks for
    evenload does not start. If it cannot be kept from that either, SGLang's own algorithm plans.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from evenload.plugins import sglang_dispatch

    sglang_dispatch.register()
    first = "expert_location.compute_initial_expert_location_metadata"
    hooks: dict[str, tuple[Callable[..., Any], Any, int]] = {
        "eplb_algorithms.compute_algorithm": (compute_algorithm, HookType.AROUND, 1),
        "eplb_algorithms.rebalance_experts": (rebalance_experts, HookType.AROUND, 1),
        first: (before_first_location, HookType.BEFORE, 0),
    }
    differs = {name: what_differs(name, found(f"{EPLB}.{name}"), hook, given)
               for name, (hook, _, given) in hooks.items()}  # fmt: skip
    why = "; ".join(filter(None, differs.values()))
    if why:  # only who asks for evenload needs to know, and is told at the first location
        log.log(logging.WARNING if differs[first] else logging.INFO,
                "evenload: not installed, because %s", why)  # fmt: skip
        hooks[first] = (partial(refuse_to_start, why), HookType.BEFORE, 0)
        hooks["eplb_algorithms.compute_algorithm"] = (sglangs_own, HookType.AROUND, 1)
        del hooks["eplb_algorithms.rebalance_experts"]
    for name, (hook, kind, _) in hooks.items():
        if not differs[name]:
            HookRegistry.register(f"{EPLB}.{name}", hook, kind)
    name = "expert_location_updater.ExpertLocationUpdater.update"
    if not (why or what_differs(name, found(f"{EPLB}.{name}"), before_update, 0)):
        HookRegistry.register(f"{EPLB}.{name}", before_update, HookType.BEFORE)


def found(name: str) -> Any:
    """Return what SGLang has under a name, None where this release has no such thing."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError):
        return None


@dataclass(frozen=True)
class Algorithm:
    """Stands for a name that evenload plans by where SGLang has a member of its enum."""

    name: str
    instead: Any  # SGLang's own member, for a rank that cannot plan

    @property
    def hierarchical(self) -> bool:
        """Whether groups are to stay on one node."""
        return self.name.endswith("hierarchical")


def is_ours(name: str) -> bool:
    """Whether evenload plans by this name."""
    return name in OURS or (name in ELASTIC and is_asked_for("sglang_elastic"))


def compute_algorithm(
    original: Callable[..., Any], raw_algorithm: str, *args: Any, **kwargs: Any
) -> Any:
    """Look up a name of an algorithm: evenload's, or SGLang's own."""
    own = sglangs_own(original, raw_algorithm, *args, **kwargs)
    return Algorithm(raw_algorithm, own) if is_ours(raw_algorithm) else own


def sglangs_own(original: Callable[..., Any], raw_algorithm: str, *args: Any, **kwargs: Any) -> Any:
    """Look up a name of SGLang's, and what it would take by itself in place of evenload's."""
    return original("auto" if raw_algorithm in OURS else raw_algorithm, *args, **kwargs)


def will_plan() -> bool:
    """Whether this server will plan by evenload."""
    from sglang.srt.runtime_context import get_exec

    moe = get_exec().moe
    plans = moe.enable_eplb or moe.init_expert_location != "trivial"
    return bool(plans and is_ours(moe.eplb_algorithm))


def refuse_to_start(why: str, *_args: Any, **_kwargs: Any) -> None:
    """Raise `RuntimeError` before a model is loaded, where this server would plan by evenload."""
    if will_plan():
        raise RuntimeError(
            f"evenload is not installed, because {why}; use a release of evenload for this SGLang, "
            "or --eplb-algorithm auto without EVENLOAD_SGLANG_ELASTIC"
        )


def before_first_location(*_args: Any, **_kwargs: Any) -> None:
    """Compile, test and look for the other ranks before a model is loaded."""
    if not will_plan():
        return
    plans = planner()
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    if not joins():  # whoever joins finds the others serving
        from sglang.srt.runtime_context import get_parallel

        store = distributed.distributed_c10d._get_default_store()
        rank, size = distributed.get_rank(), distributed.get_world_size()
        check_peers(store, rank, size, plans.settings.agree_timeout, get_parallel().nnodes)
    plans.serving = True


def check_peers(store: Any, rank: int, size: int, timeout: float, num_nodes: int = 1) -> None:
    """Wait until evenload has started on every rank.

    A rank without it would fail at its first rebalance, on a name that SGLang does not know, and
    leave the others waiting. It goes over a ``torch.distributed.Store``, not over a collective,
    which such a rank would answer with its next one. Ranks are on nodes in order.

    Raises
    ------
    RuntimeError
        If a rank did not come within `timeout` seconds, 0 for as long as it takes.
    """
    from evenload.ballots import hand_in

    keys = [f"evenload/start/{number}" for number in range(size)]
    absent = hand_in(store, keys, rank, "1", timeout)
    if absent:
        nodes = sorted({number * num_nodes // size for number in absent})
        raise RuntimeError(
            f"within {timeout:g} s evenload did not start on {len(absent)} of {size} ranks (rank "
            f"{_some(absent)}), which are on --node-rank {_some(nodes)}; install evenload on every "
            "node, and start each with the same --eplb-algorithm and EVENLOAD_* settings"
        )


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


@cache
def planner() -> Planner:
    """Read the settings, compile and test; once a process, and told in the log.

    If it failed it is a `RuntimeError` where the settings say to raise.
    """
    from evenload.plugins.selftest import planner_for

    return planner_for("SGLang", log, refuse_placement)


def refuse_placement(settings: Settings) -> None:
    """Raise `ValueError` for a placement that was planned ahead, which SGLang reads itself."""
    if settings.placement:
        raise ValueError(
            f"EVENLOAD_PLACEMENT={settings.placement} is for vLLM; use SGLang's own "
            "--init-expert-location"
        )


def rebalance_experts(
    original: Callable[..., Any],
    tokens_per_expert: Any,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: Any,
) -> tuple[Any, Any, Any]:
    """Plan the tokens [steps, L, E] by the algorithm that `compute_algorithm` returned.

    Returns `as_tensors` of the map. Slots that do not divide over the ranks, or fewer living ones
    than experts, are a `ValueError`.
    """

    def own(which: Any) -> Any:
        return original(
            tokens_per_expert=tokens_per_expert, num_physical_experts=num_physical_experts,
            num_local_physical_experts=num_local_physical_experts, num_groups=num_groups,
            num_nodes=num_nodes, algorithm=which,
        )  # fmt: skip

    if not isinstance(algorithm, Algorithm):
        return own(algorithm)  # type: ignore[no-any-return]
    from evenload.checks import multiple
    from evenload.plugins.plan import Request

    slots, slots_per_rank = num_physical_experts, num_local_physical_experts
    multiple("num_physical_experts", slots, "num_local_physical_experts", slots_per_rank)
    ranks = slots // slots_per_rank
    alive = living_ranks(ranks)
    group = reach(alive)
    most = max(planner().settings.history, 1)
    windows = _windows(tokens_per_expert, most, group is not None)
    _, L, E = windows.shape
    request = Request(
        windows,
        running_map(L, E, slots_per_rank),
        slots,
        ranks,
        num_nodes if ranks % num_nodes == 0 else 1,
        num_groups if num_groups and algorithm.hierarchical else 1,
        alive,
        dispatch_of_engine(),
    )

    def by_sglang() -> Any:
        return own(algorithm.instead)[0].cpu().long().numpy()

    compare, first = None, True
    if group is not None:
        compare, first = group.rounds(), group.rank == (min(group.alive) if group.alive else 0)
    name = sglang_model()
    return as_tensors(planner().rebalance(request, by_sglang, compare, log, first, name), E)


def as_tensors(placed: Any, num_experts: int) -> tuple[Any, Any, Any]:
    """Return a map int64 [L, S], -1 on ranks that are gone, as the three tensors SGLang wants.

    They are the expert of each slot [L, S], 0 on ranks that are gone; the slots of each expert
    [L, E, X], X the largest replica count, padded with -1; and the replicas of each [L, E], those
    on ranks that are gone not counted. On the CPU, where SGLang's own algorithm has them too.
    Without a kernel: a rank whose kernels fail has to come to the same.
    """
    import numpy as np
    import torch

    count = np.stack([np.bincount(row[row >= 0], minlength=num_experts) for row in placed])
    slots = np.full((*count.shape, count.max()), -1)
    for layer, row in enumerate(placed):
        held = np.argsort(row, kind="stable")[(row < 0).sum() :]  # by expert, then by slot
        first = np.cumsum(count[layer]) - count[layer]
        slots[layer, row[held], np.arange(len(held)) - first[row[held]]] = held
    filled = np.where(placed < 0, FILLER, placed)
    return torch.tensor(filled), torch.tensor(slots), torch.tensor(count)


def _windows(tokens: Any, most: int, compared: bool) -> Any:
    """Add the passes up. Where that fails the rank still comes to the comparison: others wait."""
    import numpy as np

    try:
        return windows_of(tokens, most)
    except Exception as error:
        if not compared or isinstance(error, ValueError):  # of a shape that all ranks have
            raise
        log.exception("evenload: no loads on this rank, which is for keeping the map that runs")
        return np.zeros((1, *tokens.shape[1:]))


def windows_of(tokens: Any, most: int) -> Any:
    """Add up consecutive passes to at most `most` windows; passes without tokens are left out.

    Whole numbers are added up on the tensor's device, where no order can change their sum, and only
    the windows come to the CPU: a thousand passes of 61 layers of 256 experts are 62 MB.

    The tokens are [steps, L, E], zero in unused rows of the buffer; windows, int64 or float64
    [W, L, E], have equally many passes with tokens, or almost. One of zeros where no pass has any.
    A tensor without three dimensions, or none of one of them, is a `ValueError`.
    """
    import numpy as np

    if tokens.ndim != 3 or 0 in tokens.shape:
        raise ValueError(
            f"tokens_per_expert has shape {tuple(tokens.shape)}; use [steps, layers, experts], at "
            "least 1 of each"
        )
    used = tokens.flatten(1).any(dim=1).nonzero().flatten().tolist()
    windows = min(most, len(used))
    first = [0, *(used[len(used) * w // windows] for w in range(1, windows))]
    bounds = list(zip(first, [*first[1:], len(tokens)], strict=True))
    if tokens.is_floating_point():
        exact = tokens.cpu().double().numpy()  # its sums keep one order on every machine
        return np.stack([exact[begin:end].sum(axis=0) for begin, end in bounds])
    return np.stack([tokens[begin:end].sum(dim=0).cpu().numpy() for begin, end in bounds])


def running_map(num_layers: int, num_experts: int, slots_per_rank: int) -> Any:
    """Return the map that runs, int64 [L, S'], or None: before the first, or for another model."""
    from sglang.srt.eplb.expert_location import get_global_expert_location_metadata

    metadata = get_global_expert_location_metadata()
    if metadata is None:
        return None
    old = metadata.physical_to_logical_map_cpu.long().numpy()
    shape = (len(old), metadata.num_logical_experts, old.shape[1] % slots_per_rank)
    return old if shape == (num_layers, num_experts, 0) else None


def dispatch_of_engine() -> str:
    """Return how SGLang picks replicas of the maps that it rebalances to: `evenload.dispatch`.

    Its ``dynamic`` picks evenly among all of them, with an all-to-all backend or without one;
    ``static`` and ``lp`` are refused without one.
    """
    from sglang.srt.runtime_context import get_exec

    algorithm = get_exec().moe.ep_dispatch_algorithm
    return {"lp": "live", "static": "static"}.get(algorithm, "even")


def living_ranks(num_ranks: int) -> tuple[bool, ...] | None:
    """Return which ranks are there, or None where SGLang is not elastic.

    SGLang counts ranks up to the most that there may be; those beyond `num_ranks` have no slots.
    """
    from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager

    state = ElasticEPStateManager.instance()
    if state is None or state.active_ranks is None:
        return None
    return tuple(bool(active) for active in state.active_ranks.tolist()[:num_ranks])


def joins() -> bool:
    """Whether this rank came after the others: in place of one that had gone, or in addition."""
    from sglang.srt.runtime_context import get_exec

    return bool(get_exec().moe.is_ep_joiner)


def reach(alive: tuple[bool, ...] | None) -> Peers | None:
    """Return the ranks that SGLang adds loads up over, those alive; None for one that is alone.

    After a scale-up rank 0 alone plans.
    """
    from torch import distributed

    from evenload.plugins import peers

    if not distributed.is_available() or not distributed.is_initialized() or has_scaled():
        return None
    group = peers.of_world(planner().settings.agree_timeout, joins())
    here = None if alive is None else enumerate(alive[: group.size])
    group.alive = None if here is None else tuple(rank for rank, there in here if there)
    return group


def has_scaled() -> bool:
    """Whether elastic ranks were added to those that SGLang began with."""
    from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager

    state = ElasticEPStateManager.instance()
    return state is not None and bool(state.has_scaled)
