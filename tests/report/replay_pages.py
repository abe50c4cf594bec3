"""Replays made by the public function, small and quick, for tests of what is drawn of them."""

from dataclasses import replace

from costs import LARGE

from evenload import Cluster, Trace
from evenload.replay import replay
from evenload.synth import synthetic_trace

POLICIES = ("never", "every-2:greedy", "every-4:greedy", "deepseek")
WINDOWS, LAYERS, EXPERTS = 13, 3, 16


def small_trace(source="loads.npz", windows=WINDOWS):
    load = synthetic_trace(windows, LAYERS, EXPERTS, seed=5, tokens=4000, topic_windows=4)
    return Trace(load, source=source)


def renamed(name, like):
    """A policy that decides as another one, under a name of its own."""
    from evenload.replay import get_policy

    inner = get_policy(like)

    class Renamed:
        memory = inner.memory

        def decide(self, past):
            return inner.decide(past)

    Renamed.name = name
    return Renamed()


def small_replays(trace, policies=POLICIES, cluster=None, **how):
    cluster = cluster or Cluster(4, 2, num_slots=20)
    how = {"cost": replace(LARGE, tokens_per_second=1e5), "oracle": "fast"} | how
    return [replay(trace, cluster, policy, **how) for policy in policies]
