"""Policies that have a name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evenload.checks import positive_int
from evenload.moves import keep_slots
from evenload.placement import Placement
from evenload.planner import solve
from evenload.replay.past import Past, Policy
from evenload.solvers import get_solver

MEMORY = 16
"""Windows that ours looks at: what sketches on real traces found enough."""

SECONDS = "seconds"


@dataclass(frozen=True)
class Never:
    """Stay with the placement that the replay starts with."""

    name: str = "never"
    memory: int = 1

    def decide(self, past: Past) -> Placement | None:
        """Keep."""
        return None


@dataclass(frozen=True)
class Planned:
    """Plan the last window from scratch with a solver, from time to time.

    Parameters
    ----------
    name : str
    solver : str
    every : int or None
        Plan each time when it is asked the `every`-th time, the first included; None: only then.
    keep : bool
        Keep the slots of experts that stay on their GPU.
    options : dict
        Options of the solver.
    """

    name: str
    solver: str = "auto"
    every: int | None = 1
    keep: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    memory: int = 1

    def decide(self, past: Past) -> Placement | None:
        """Plan the last window, or keep."""
        if past.asked % self.every if self.every else past.asked:
            return None
        plan = solve(
            past.load[-1],
            past.cluster,
            num_groups=past.num_groups,
            solver=self.solver,
            **self.options,
        )
        return keep_slots(plan.placement, past.current) if self.keep else plan.placement


@dataclass(frozen=True)
class Evenload:
    """Ours: plan for what the past windows let expect, moving only what is worth it.

    Leaving the trivial placement, which an engine starts with, is free: it is made for no load, and
    at a price per move a plan would stay near it.

    Parameters
    ----------
    name : str
    options : dict
        Options of `evenload.solve`. A `move_cost` of ``"seconds"`` is worked out anew for each
        decision, see `CostModel.move_cost`.
    memory : int
        Windows to look at.
    """

    name: str = "evenload"
    options: dict[str, Any] = field(default_factory=dict)
    memory: int = MEMORY

    def decide(self, past: Past) -> Placement | None:
        """Plan from the current placement."""
        options = dict(self.options)
        _, L, E = past.load.shape
        if past.current == Placement.trivial(L, E, past.cluster):
            options["move_cost"] = 0.0
        elif options.get("move_cost") == SECONDS:
            options["move_cost"] = past.cost.move_cost(
                past.load[-1], past.cluster, windows=past.interval, sample=past.sample
            )
        return solve(
            past.load, past.cluster, current=past.current, num_groups=past.num_groups, **options
        ).placement


def policy_names() -> list[str]:
    """Return the names that `get_policy` knows, with N for a number and SOLVER for a solver."""
    return [
        "never",
        "once",
        "once:SOLVER",
        "every-N",
        "every-N:SOLVER",
        "deepseek",
        "vllm",
        "evenload",
    ]


def get_policy(name: str) -> Policy:
    """Return a policy by name.

    Parameters
    ----------
    name : str
        ``"never"`` keeps what the replay starts with. ``"once"`` plans the last window when it is
        asked first. ``"every-N"`` does so each N-th time that it is asked, the first included; both
        with solver auto, or another: ``"once:greedy"``, ``"every-4:joint"``. ``"deepseek"`` plans
        the last window each time with DeepSeek's algorithm, ``"vllm"`` does the same and keeps
        slots inside GPUs as vLLM does. ``"evenload"`` plans from the current placement for what
        the last windows let expect. Options of the solver follow after commas:
        ``"every-4:joint,effort=thorough"``, ``"evenload,move_cost=0.003"``; with
        ``move_cost=seconds`` a move has to gain what the cost model says it takes.

    Raises
    ------
    ValueError
        If there is no such policy or solver (the message lists those that are), or an option is
        not written as ``name=value``.
    """
    if not isinstance(name, str):
        raise ValueError(f"policy={name!r} is no name; use one of: {', '.join(policy_names())}")
    head, *rest = name.split(",")
    options = dict(_option(part, name) for part in rest)
    kind, _, solver = head.partition(":")
    if kind == "evenload" and not solver:
        return Evenload(name, options)
    if kind in ("never", "deepseek", "vllm") and not solver and not options:
        if kind == "never":
            return Never()
        return Planned(name, "greedy", keep=kind == "vllm")
    every = _every(kind, name)
    if (every is None and kind != "once") or head.endswith(":"):
        raise ValueError(f"policy={name!r} is unknown; use one of: {', '.join(policy_names())}")
    if solver not in ("", "auto"):
        get_solver(solver)
    return Planned(name, solver or "auto", every, options=options)


def _every(kind: str, name: str) -> int | None:
    """Return N of ``every-N``, or None for another kind."""
    start, _, number = kind.partition("-")
    if start != "every" or not (number.isascii() and number.isdigit()):
        return None
    return positive_int(f"policy={name!r}: N", int(number))


def _option(text: str, name: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals and value):
        raise ValueError(
            f"policy={name!r}: {text!r} is no option; write it as name=value, e.g. effort=fast"
        )
    for convert in (int, float):
        try:
            return key, convert(value)
        except ValueError:
            pass
    return key, value
