"""CPU seconds of a live plan where all ranks of a node plan at once.

``python -m benchmarks.planners_at_once``
Each process plans as a plug-in does: 58 x 256 experts in 288 slots on 32 GPUs, from the map of the
plan before, under 16 windows of a trace that drifts.
"""

import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from evenload.plugins.plan import Request, plan_map
from evenload.plugins.settings import Settings
from evenload.synth import synthetic_trace
from evenload.threads import use_at_most

PLANNERS, WINDOWS, ROUNDS, INTERVAL = 8, 16, 5, 3000


def plans(_: int) -> list[float]:
    """Return the CPU seconds of some plans in a row, the first from the map of a fresh plan."""
    use_at_most(2)
    trace = synthetic_trace(WINDOWS + ROUNDS, seed=0)
    runs = plan_map(Request(trace[:WINDOWS], None, 288, 32), Settings()).map
    took = []
    for number in range(1, ROUNDS + 1):
        start = time.process_time()
        runs = plan_map(Request(trace[number : WINDOWS + number], runs, 288, 32), Settings()).map
        took.append(time.process_time() - start)
    return took


def main() -> int:
    """Measure, and say at which step time a plan is 1 % of vLLM's interval."""
    with ProcessPoolExecutor(PLANNERS) as pool:
        took = [second for some in pool.map(plans, range(PLANNERS)) for second in some]
    median = statistics.median(took)
    sys.stdout.write(
        f"{PLANNERS} planners at once on {os.cpu_count()} cores, {WINDOWS} windows: "
        f"{1e3 * median:.0f} ms CPU a plan, at most {1e3 * max(took):.0f} ms\n"
        f"1 % of {INTERVAL} steps at {1e3 * median / (0.01 * INTERVAL):.1f} ms per step\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
