"""What a policy is asked and may know, and the policies that have a name."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from evenload import solve
from evenload.arrays import Float
from evenload.checkpoint import plan_order
from evenload.checks import positive_int
from evenload.cluster import Cluster
from evenload.cost import CostModel
from evenload.dispatch import PLANNERS, SLACK, check_slack
from evenload.moves import keep_slots
from evenload.placement import Placement
from evenload.solvers import get_solver

MEMORY = 16  # windows that ours looks at: what sketches on real traces found enough


@dataclass(frozen=True, eq=False)
class Past:
    """All that is known when a policy has to decide; what is not described is as in `replay`."""

    #: Tokens of each expert in the last H windows, oldest first: [H, L, E], read-only. H is the
    #: policy's memory, or fewer near the beginning, but at least 1.
    load: Float
    window: int  #: number of the next window, the first that the decision is for
    asked: int  #: how often the policy has been asked before in this replay
    current: Placement  #: what serves now
    cluster: Cluster
    num_groups: int
    cost: CostModel
    interval: int = 1
    recorded_share: float = 1.0
    dispatch: str = "even"


class Policy(Protocol):
    """Decides from the past whether experts move, and where to.

    It should be deterministic and keep nothing between calls: what it needs of the past is in
    `Past`. Its name is for tables, its memory the windows that it wants to see, at least 1. One
    that has a number `slack` is served by a balancer that copies experts for every window, see
    `evenload.copying`. What one that is `offline` returns is what the replay starts with, and no
    rebalance.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def memory(self) -> int: ...  # noqa: D102

    def decide(self, past: Past) -> Placement | None:
        """Return the placement to move to, or None to keep the current one."""


def check_policy(value: Any) -> Policy:
    """Return `value` if it has what a policy needs."""
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not callable(getattr(value, "decide", None)):
        raise ValueError(
            f"policy={value!r} is not a policy; use a name, or an object with name, memory and "
            "decide"
        )
    positive_int(f"memory of the policy {name!r}", getattr(value, "memory", None))
    policy: Policy = value
    return policy


@dataclass(frozen=True)
class Planned:
    """Plan the last window from scratch with a solver, each `every`-th time that it is asked.

    That is the first time only for infinity, and never for None. With `keep` experts that stay on
    their GPU keep their slots.
    """

    name: str
    solver: str = "auto"
    every: float | None = 1
    keep: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    memory: int = 1
    slack: float | None = None

    def decide(self, past: Past) -> Placement | None:
        """Plan the last window, or keep."""
        if self.every is None or past.asked % self.every:
            return None
        how: dict[str, Any] = {"num_groups": past.num_groups, "solver": self.solver}
        if self.solver in PLANNERS:
            how["dispatch"] = past.dispatch
        how |= self.options
        placement = solve(past.load[-1], past.cluster, **how).placement
        return keep_slots(placement, past.current) if self.keep else placement


@dataclass(frozen=True)
class Evenload:
    """Ours: plan for the load that past windows forecast, moving only what is worth it.

    Leaving the trivial placement, which an engine starts with, is free: it is made for no load, and
    at a price per move a plan would stay near it. From then on a move has to gain the seconds that
    it takes until the next decision, see `CostModel.move_cost`. `options` are those of
    `evenload.solve`, `move_cost` among them: another price, in balancedness.
    """

    name: str = "evenload"
    options: dict[str, Any] = field(default_factory=dict)
    memory: int = MEMORY
    slack: float | None = None

    def decide(self, past: Past) -> Placement | None:
        """Plan from the current placement."""
        options = {"dispatch": past.dispatch, **self.options}
        _, L, E = past.load.shape
        if past.current == Placement.trivial(L, E, past.cluster):
            options["move_cost"] = 0.0
        elif options["dispatch"] != "copy":  # what fetching takes is in no seconds there
            options.setdefault(
                "move_cost",
                past.cost.move_cost(
                    past.load[-1],
                    past.cluster,
                    windows=past.interval,
                    recorded_share=past.recorded_share,
                ),
            )
        if "max_transfer_seconds" in options:
            options["cost"] = past.cost
        options |= {"current": past.current, "num_groups": past.num_groups}
        return solve(past.load, past.cluster, **options).placement


@dataclass(frozen=True)
class Reorder:
    """Experts in order, in a checkpoint that was reordered for the windows of the warm start.

    See `evenload.checkpoint`: planned once, without redundancy, and served from the first window
    on, since an engine loads its weights so; nothing ever moves.
    """

    name: str = "reorder"
    options: dict[str, Any] = field(default_factory=dict)
    memory: int = 2**20  # all windows before the first that is served
    slack: float | None = None
    offline: bool = True

    def decide(self, past: Past) -> Placement | None:
        """Plan when first asked."""
        if past.asked:
            return None
        cluster, E = past.cluster, past.load.shape[2]
        if cluster.num_slots != E or not cluster.gpus_are_equal:
            raise ValueError(
                f"policy={self.name!r} has each expert once and as many on each GPU, and the "
                f"cluster has {cluster.num_slots} slots for {E} experts; use --slots {E}, or leave "
                "this policy out"
            )
        how: dict[str, Any] = {"num_groups": past.num_groups, **self.options}
        return Placement(plan_order(past.load, cluster.num_gpus, **how).rows, cluster, E)


def policy_names() -> list[str]:
    """Return the names that `get_policy` knows, with N for a number and SOLVER for a solver."""
    return ["never", "once", "once:SOLVER", "every-N", "every-N:SOLVER", "deepseek", "vllm",
            "evenload", "reorder", "copy", "copy:never", "moonep"]  # fmt: skip


def get_policy(name: str) -> Policy:
    """Return a policy by name; the error for an unknown name lists the known ones.

    ``"never"`` keeps what the replay starts with. ``"once"`` plans the last window when first
    asked, ``"every-N"`` each N-th time, the first included; also with a solver:
    ``"every-4:joint"``. ``"deepseek"`` always plans it with DeepSeek's algorithm, ``"vllm"`` also
    keeps slots inside GPUs. ``"evenload"`` plans from the current placement for what the last
    windows let expect. Options of the solver follow after commas: ``"evenload,move_cost=0.003"``
    asks each move for that much balancedness, and not for the seconds that it takes, and
    ``"evenload,max_transfer_seconds=0.5"`` ends each rebalance after so many. So do those of
    `evenload.solve`: ``"evenload,dispatch=even"`` plans for that whatever the windows are judged
    by.

    ``"reorder"`` never moves anything: it starts from experts in order in a checkpoint that was
    reordered for the windows of the warm start, without redundancy; see `evenload.checkpoint`.

    ``"copy"`` takes each window for a microbatch and balances it by copies of experts, up to
    ``copy_slack=0.05``, from homes that are planned as by ``"evenload"``; ``"copy:never"`` does so
    from what the replay starts with. ``"moonep"`` is that without any slack: the exact balance that
    MoonEP publishes, from homes in order (by our balancer, which on average copies no more than
    MoonEP's own).
    """
    known = ", ".join(policy_names())
    if not isinstance(name, str):
        raise ValueError(f"policy={name!r} is not a name; use one of: {known}")
    head, *rest = name.split(",")
    options = dict(_option(part, name) for part in rest)
    kind, _, solver = head.partition(":")
    if kind == "evenload" and not solver:
        return Evenload(name, options)
    if head == "reorder":
        return Reorder(name, options)
    if head in ("copy", "copy:never", "moonep") and (kind == "copy" or not options):
        slack = check_slack("copy_slack", options.get("copy_slack", SLACK))
        if head == "copy":
            options = {"copy_slack": slack, **options, "dispatch": "copy"}
            return Evenload(name, options, slack=slack)
        if set(options) <= {"copy_slack"}:
            return Planned(name, every=None, slack=0.0 if kind == "moonep" else slack)
    if kind in ("never", "deepseek", "vllm") and not solver and not options:
        return Planned(name, "greedy", None if kind == "never" else 1, keep=kind == "vllm")
    every = math.inf if kind == "once" else None
    number = kind.removeprefix("every-")
    if number != kind and number.isascii() and number.isdigit():
        every = positive_int(f"policy={name!r}: N", int(number))
    if every is None or head.endswith(":"):
        raise ValueError(f"policy={name!r} is unknown; use one of: {known}")
    if solver not in ("", "auto"):
        get_solver(solver)
    return Planned(name, solver or "auto", every, options=options)


def _option(text: str, name: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals and value):
        raise ValueError(
            f"policy={name!r}: {text!r} is not an option; write it as name=value, e.g. effort=fast"
        )
    for convert in (int, float):
        try:
            return key, convert(value)
        except ValueError:
            pass
    return key, value
