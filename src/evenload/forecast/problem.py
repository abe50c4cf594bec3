"""From a trace to the problem of planning for the window after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evenload.cluster import Cluster
from evenload.forecast.estimators import get_estimator
from evenload.forecast.samples import samples_of
from evenload.forecast.windows import last_windows, shares
from evenload.problem import CROSS_NODE_PRICE, Problem


def trace_problem(
    trace: Any,
    cluster: Cluster,
    num_groups: int = 1,
    topology: str | None = None,
    cross_node_price: float = CROSS_NODE_PRICE,
    estimator: str = "adaptive",
) -> Problem:
    """Validate a trace and all that `Problem.build` takes.

    Raises
    ------
    ValueError
        As `forecast.forecast` and `Problem.build`.
    """
    predict = get_estimator(estimator)
    windows, rewrap = last_windows(trace)
    seen = shares(windows)
    path = predict(seen)
    load = path[-1] * windows[-1].sum(axis=-1, keepdims=True)
    problem = Problem.build(load, cluster, num_groups, topology, cross_node_price)
    samples = samples_of(seen, path)
    return replace(problem, rewrap=rewrap, samples=samples.load, sample_weight=samples.weight)
