"""Policies judged on a trace: when to rebalance, with which planner, and whether it pays."""

from evenload.replay.policies import Past, Policy, get_policy, policy_names
from evenload.replay.results import Replay, write_results
from evenload.replay.run import replay
from evenload.replay.sweep import sweep

__all__ = [
    "Past",
    "Policy",
    "Replay",
    "get_policy",
    "policy_names",
    "replay",
    "sweep",
    "write_results",
]
