"""Plans by time inside an engine."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from evenload import Cluster, Placement, solve
from evenload.cost import ExpertTime
from evenload.plugins.agreement import fingerprint
from evenload.plugins.plan import Request, plan_map
from evenload.plugins.planner import Memory, Planner
from evenload.plugins.selftest import planner_for, problems, self_test
from evenload.plugins.settings import Settings, read_settings
from evenload.seconds import layer_seconds

NAME = "h100-ib:qwen3-30b-a3b"
TIMED = Settings(expert_time=NAME, tokens_per_batch=64, top_k=8)
HOW = {"expert_time": ExpertTime.named(NAME), "tokens_per_batch": 64, "top_k": 8}
LOAD = np.random.default_rng(0).lognormal(3.0, 1.0, (3, 64))
START = np.tile(np.arange(72) % 64, (3, 1))


def request(current=START, load=LOAD, **how):
    return Request(load[None], current, 72, 8, **how)


def test_a_plan_by_time_is_that_of_solve() -> None:
    outcome = plan_map(request(None), TIMED)
    plan = solve(LOAD, Cluster(8, num_slots=72), **HOW)
    assert outcome.map.tolist() == plan.placement.physical_to_logical.tolist()
    assert outcome.seconds[1] == pytest.approx(plan.seconds.mean())
    tokens = plan_map(request(None), Settings())
    assert tokens.seconds is None
    other = Placement(tokens.map, Cluster(8, num_slots=72), 64)
    assert outcome.seconds[1] < layer_seconds(other, LOAD, **HOW).mean()


def test_what_runs_is_moved_where_that_saves_time() -> None:
    for share in (1.0, 0.125):
        settings = Settings(expert_time=NAME, tokens_per_batch=64, top_k=8, start_share=share)
        outcome = plan_map(request(), settings)
        assert outcome.moves > 0
        assert outcome.seconds[1] < outcome.seconds[0]


def test_ranks_compare_the_table_of_times(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("tokens,seconds\n1,3e-6\n100,3e-6\n200,6e-6\n")
    same = tmp_path / "same.csv"
    same.write_text(path.read_text())
    other = tmp_path / "other.csv"
    other.write_text("tokens,seconds\n1,3e-6\n10,4e-6\n200,7e-6\n")

    def told(expert_time, batch=64, k=8):
        settings = Settings(expert_time=expert_time, tokens_per_batch=batch, top_k=k)
        return fingerprint(settings)

    prints = [told(NAME), told(str(path)), told(str(other)), told(NAME, 65), told(NAME, 64, 4)]
    assert len({*prints, fingerprint(Settings())}) == 6
    assert told(str(same)) == told(str(path))  # what it holds, not what it is called


def test_the_self_test_takes_settings_by_time() -> None:
    assert self_test(TIMED) != self_test(Settings())
    for problem in problems():
        assert plan_map(problem, TIMED).kept == ""


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"EXPERT_TIME": "h100-ib"}, "expert_time='h100-ib' names no curve; use a .csv file, or"),
        ({"EXPERT_TIME": NAME}, "tokens_per_batch=0 is less than 1; use 1 or more"),
        ({"EXPERT_TIME": "absent.csv", "TOKENS_PER_BATCH": "64"}, "absent.csv"),
        ({"EXPERT_TIME": NAME, "TOKENS_PER_BATCH": "64", "SOLVER": "joint"},
         "expert_time is beyond solver 'joint'"),
    ],
)  # fmt: skip
def test_what_an_engine_is_told_that_cannot_be(monkeypatch, said, why) -> None:
    for name, value in said.items():
        monkeypatch.setenv(f"EVENLOAD_{name}", value)
    assert re.search(re.escape(why), planner_for("vLLM", logging.getLogger("test")).failure)


def test_settings_are_read(monkeypatch) -> None:
    said = {"EVENLOAD_EXPERT_TIME": NAME, "EVENLOAD_TOKENS_PER_BATCH": "64", "EVENLOAD_TOP_K": "8"}
    assert read_settings(said) == TIMED


def test_a_dispatch_without_seconds_keeps_the_map() -> None:
    planner = Planner("SGLang", TIMED)
    kept = planner.rebalance(
        request(dispatch="static"), lambda: START, None, logging.getLogger("test")
    )
    assert kept.tolist() == START.tolist()


def test_a_map_is_judged_by_time_and_not_by_tokens() -> None:
    """One by time has less balance than one by tokens, and is the faster one."""
    by_time = plan_map(request(None), TIMED).map
    by_tokens = plan_map(request(None), Settings()).map
    strikes = {}
    for settings in (TIMED, Settings()):
        memory = Memory(4)
        memory.moved(request(by_tokens), by_time)
        memory.judge(request(by_time), settings)
        memory.moved(request(by_tokens), by_time)
        memory.judge(request(by_time), settings)
        strikes[settings.expert_time] = memory.strikes
    assert strikes == {NAME: 0, "": 2}


def test_the_log_tells_seconds(caplog) -> None:
    logger = logging.getLogger("evenload.test")
    with caplog.at_level(logging.INFO, logger.name):
        Planner("vLLM", TIMED).rebalance(request(), lambda: START, None, logger)
    assert re.search(r"[\d.]+ -> [\d.]+ µs per layer and batch", caplog.text)
