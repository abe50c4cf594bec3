"""What a replay says before anything is switched on, where balance and time part ways."""

import json

import numpy as np
import pytest
from command import run

from evenload import Cluster, CostModel
from evenload.replay import replay
from evenload.report.policies import change, policy_lines, total_seconds

GPUS, WINDOWS, SERVING, MOVING = 16, 25, 18.0, 42.0


@pytest.fixture(scope="module")
def switched_on():
    """As in vllm-project/vllm#50647 (Kimi K3, 16 ranks, 2026): a trace and what seconds are.

    There balancedness rose from .9356 to .9919, and 1,319 questions took 1466 s, not 463: 24
    rearrangements, in each of which serving stood still for about 42 s, one in 19 s of serving.
    """
    rng = np.random.default_rng(0)
    load = rng.lognormal(0.0, 0.077, (6, 64)) * rng.lognormal(0.0, 0.008, (WINDOWS, 6, 64))
    trace = np.round(1e6 * load)
    speed = trace[0].sum() / GPUS / SERVING
    links = 1e9, 1e9
    cost = CostModel(speed, 0.79e9, *links, overlap=0.0)
    return trace, cost


def test_better_balance_that_takes_three_times_as_long_is_told_beforehand(switched_on):
    trace, cost = switched_on
    cluster = Cluster(GPUS, slots_per_gpu=4)
    never, ours = (
        replay(trace, cluster, name, cost=cost, oracle=None).figures()
        for name in ("never", "deepseek")
    )
    assert never["balancedness"] == pytest.approx(0.9356, abs=0.005)
    assert ours["balancedness"] == pytest.approx(0.9919, abs=0.005)
    assert ours["rebalances"] == 24
    assert ours["moved_share"] > 0.7
    assert ours["transfer_seconds"] / 24 == pytest.approx(MOVING, rel=0.05)
    assert ours["straggler_seconds"] < never["straggler_seconds"]
    assert ours["total_seconds"] == pytest.approx(never["total_seconds"] * 1466 / 463, rel=0.05)
    assert ours["net_seconds"] == pytest.approx(never["total_seconds"] - ours["total_seconds"])
    assert ours["net_seconds"] < -900.0
    best, *warnings = policy_lines([never, ours])
    assert best.startswith("never takes the least time in all, ")
    assert "deepseek had moves that took longer than the whole window after them" in warnings[0]


def test_the_command_says_so_too(switched_on, tmp_path):
    trace, cost = switched_on
    np.savez(tmp_path / "trace.npz", load=trace)
    numbers = [f"--cost={name}={value!r}" for name, value in cost.numbers.items()]
    options = ("--gpus", GPUS, "--slots", 64, "--policy", "deepseek", "--oracle", "none", *numbers)
    done = run("replay", tmp_path / "trace.npz", *options)
    assert done.exit_code == 0, done.stderr
    assert "never takes the least time in all, " in done.stdout
    told = json.loads(run("replay", tmp_path / "trace.npz", *options, "--json").stdout)
    rows = {row["policy"]: row for row in told["replays"]}
    deepseek, never = rows["deepseek"], rows["never"]
    assert deepseek["net_seconds"] < 0.0 == never["net_seconds"]
    assert change(total_seconds(deepseek), total_seconds(never)) in done.stdout
