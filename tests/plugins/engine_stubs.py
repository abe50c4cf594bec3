"""Stand-ins for the parts of engines that a plug-in touches, for tests without the engines."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import torch

from evenload.plugins import peers, plan
from evenload.plugins.settings import PREFIX
from evenload.plugins.vllm import RAY_PREFIXES

MOST_FUNCTIONS = 8  # from what an engine calls to the solver


def put_module(monkeypatch, name, **content):
    """Make `import name` give a module with this content, and its parents packages."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        if part not in sys.modules:
            module = ModuleType(part)
            module.__path__ = []
            monkeypatch.setitem(sys.modules, part, module)
    for key, value in content.items():
        monkeypatch.setattr(sys.modules[name], key, value, raising=False)
    return sys.modules[name]


class OwnPolicy:
    """vLLM's own policy by its arguments, which always gives the trivial map."""

    @classmethod
    def rebalance_experts(
        cls, weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None
    ):
        L, E = weight.shape
        return (torch.arange(num_replicas) % E).expand(L, -1).contiguous()


def stub_vllm(monkeypatch):
    """Put vLLM's table of policies in place, and return it."""
    monkeypatch.setenv(RAY_PREFIXES, PREFIX)  # registration has nothing to add, or undo
    policies = {"default": OwnPolicy}
    put_module(
        monkeypatch,
        "vllm.distributed.eplb.policy",
        EPLB_POLICIES=policies,
        AbstractEplbPolicy=type("AbstractEplbPolicy", (OwnPolicy,), {}),
    )
    return policies


def two_ranks(monkeypatch, other):
    """Make the policy meet one other rank, which says `other` of what this one says."""
    pair = SimpleNamespace(rounds=lambda: lambda mine: [mine, other(mine)], rank=0)
    monkeypatch.setattr(
        peers, "of_coordinator", lambda module, name, settings: pair if settings.agree else None
    )


def functions_to_the_solver(monkeypatch, call):
    """Count the functions of evenload that run one inside the other when the solver is called."""
    depth = []
    solved = plan.solve_problem

    def solve(*args, **kwargs):
        frame, names = sys._getframe(1), []
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith("evenload."):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        depth.append(names)
        return solved(*args, **kwargs)

    monkeypatch.setattr(plan, "solve_problem", solve)
    call()
    (names,) = depth
    return names
