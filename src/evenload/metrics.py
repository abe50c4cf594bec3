"""What each rebalance came to, as metrics for Prometheus (extra ``metrics``).

They go into the engine's own default registry, and into the files of `PROMETHEUS_MULTIPROC_DIR`
where that is set. ``prometheus_client`` looks at the variable when it is imported, and engines set
it late, so it is imported at the first rebalance and not before.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from evenload.extras import how_to_install

logger = logging.getLogger(__name__)

REASONS = ("no-load", "disagreement", "timeout", "failure", "killed", "shadow", "paused")
OTHER = "other"  # any further reason: the values of a label have to be few
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COUNTERS = {
    "rebalances": "Rebalances that the engine asked for",
    "moves": "Experts of a layer that moved to another GPU",
    "moved_bytes": "Bytes of weights that moved to another GPU",
    "disagreements": "Rebalances at which the plans of two ranks differed",
}
GAUGES = {
    "balancedness_before": "Mean over layers of mean / max GPU load, by the map that ran",
    "balancedness_predicted": "The same by the plan, on the load that it was made for",
    "balancedness_realised": "The same by the last map, on the load that came after it",
    "windows": "Windows of load that the last plan was made for",
    "paused": "1 where rebalancing is paused, else 0",
    "last_rebalance_timestamp_seconds": "Unix time of the last rebalance",
}


@dataclass(frozen=True)
class Facts:
    """What a rebalance came to; not a number where something is unknown.

    The balancedness `before` is that of the map that ran, `after` what the plan predicts, and
    `realised` what the map of the last rebalance reached on the load that came since. `kept` is one
    of `REASONS` where the old map stays, and empty where the plan was taken; moves count only then.
    """

    seconds: float
    moves: int = 0
    before: float = math.nan
    after: float = math.nan
    realised: float = math.nan
    kept: str = ""
    windows: int = 0
    agreed: bool = True
    paused: bool = False


def record(engine: str, facts: Facts, model: str = "") -> None:
    """Count one rebalance.

    Call it on the one rank that speaks for its group, since Prometheus adds the counters of all
    processes of a node up. It never raises: without ``prometheus_client`` it tells the log once, at
    DEBUG; metrics that cannot be written are a warning, once for each reason.

    Parameters
    ----------
    engine : str
        Value of the label ``engine``, such as ``vLLM``.
    facts : Facts
        What the rebalance came to.
    model : str, optional
        Value of the label ``model``; empty where it is unknown.
    """
    _write(lambda metrics: _record(metrics, (engine, model), facts))


def record_bytes(engine: str, number: Callable[[], int], model: str = "") -> None:
    """Count bytes of weights that move; as `record`, on one rank of a group, and never raising.

    Call it only where the engine tells how many: a counter that was never told of is absent.
    """

    def write(metrics: dict[str, Any]) -> None:
        told = number()  # where that fails, no counter of 0 must be left
        metrics["moved_bytes"].labels(engine, model).inc(told)

    _write(write)


def _write(write: Callable[[dict[str, Any]], object]) -> None:
    try:
        metrics = _metrics()
        if metrics:
            write(metrics)
    except Exception as error:
        _warn(f"{type(error).__name__}: {error}")


@cache
def _metrics() -> dict[str, Any]:
    """Register all metrics, once a process; none without the package."""
    try:
        from prometheus_client import Counter, Gauge, Histogram
    except ImportError:
        logger.debug(
            "evenload: no metrics, since prometheus_client is not installed; use %s",
            how_to_install("metrics"),
        )
        return {}
    labels = ("engine", "model")
    made: dict[str, Any] = {n: Counter(f"evenload_{n}", t, labels) for n, t in COUNTERS.items()}
    for name, text in GAUGES.items():
        made[name] = Gauge(f"evenload_{name}", text, labels, multiprocess_mode="mostrecent")
    text = "Rebalances that kept the old map, by reason"
    made["kept"] = Counter("evenload_kept", text, (*labels, "reason"))
    text = "Seconds from the request of a map to the map"
    made["planning_seconds"] = Histogram("evenload_planning_seconds", text, labels, buckets=SECONDS)
    return made


def _record(metrics: dict[str, Any], labels: tuple[str, str], facts: Facts) -> None:
    taken = not facts.kept
    counted = {
        "rebalances": 1,
        "moves": facts.moves if taken else 0,
        "disagreements": 0 if facts.agreed else 1,
    }
    for name, number in counted.items():
        metrics[name].labels(*labels).inc(number)
    for reason in (*REASONS, OTHER):  # all from 0 on: a rate does not see a counter's first value
        metrics["kept"].labels(*labels, reason)
    if facts.kept:
        metrics["kept"].labels(*labels, facts.kept if facts.kept in REASONS else OTHER).inc()
    observed = {
        "balancedness_before": facts.before,
        "balancedness_predicted": facts.after,
        "balancedness_realised": facts.realised,
        "windows": facts.windows,
        "paused": facts.paused,
        "last_rebalance_timestamp_seconds": time.time(),
    }
    for name, value in observed.items():
        if not math.isnan(value):
            metrics[name].labels(*labels).set(value)
    if not math.isnan(facts.seconds):
        metrics["planning_seconds"].labels(*labels).observe(facts.seconds)


@cache
def _warn(reason: str) -> None:
    logger.warning("evenload: metrics cannot be written, rebalancing goes on: %s", reason)
