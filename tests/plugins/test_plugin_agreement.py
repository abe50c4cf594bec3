"""Ranks plan the same bytes, and find out where they do not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evenload.plugins import plan, planner, selftest
from evenload.plugins.agreement import differences, fingerprint
from evenload.plugins.plan import EMPTY, Request, plan_map
from evenload.plugins.planner import Planner
from evenload.plugins.selftest import planner_for, problems, self_test
from evenload.plugins.settings import Settings

HERE = Path(__file__).parent
ALIKE = {
    "one thread": {"EVENLOAD_NUM_THREADS": "1"},
    "two threads": {"EVENLOAD_NUM_THREADS": "2", "PYTHONHASHSEED": "1"},
    "seven threads": {"EVENLOAD_NUM_THREADS": "7", "PYTHONHASHSEED": "4242"},
    "another language and time": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "no language": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONHASHSEED": "0"},
    "optimised": {"PYTHONOPTIMIZE": "2", "OMP_NUM_THREADS": "1"},
    "threads of libraries": {"OMP_NUM_THREADS": "16", "NUMBA_NUM_THREADS": "1"},
    "no assembly of NumPy's": {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "MKL_CBWR": "COMPATIBLE"},
}
LOGGER = logging.getLogger("evenload.test")


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "rank_plans.py"), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs(ranks):
    """Wait for every rank; what each of them printed."""
    said = {}
    for name, process in ranks.items():
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, f"{name}: {errors}"
        said[name] = out.strip()
    return said


def test_eight_ranks_of_different_environments_plan_the_same_bytes():
    said = outputs({name: start(environment) for name, environment in ALIKE.items()})
    assert len(said) == 8
    assert len(set(said.values())) == 1, said


def test_ranks_that_plan_by_time_come_to_the_same_bytes():
    timed = {"EVENLOAD_EXPERT_TIME": "h200-ib:deepseek-v3", "EVENLOAD_TOKENS_PER_BATCH": "256"}
    timed["EVENLOAD_TOP_K"] = "8"
    names = ("one thread", "seven threads", "no assembly of NumPy's")
    said = outputs({name: start(timed | ALIKE[name]) for name in names})
    assert len(set(said.values())) == 1, said


def test_the_self_test_sees_a_rank_that_plans_otherwise():
    # Without its compiler Numba computes small integers as NumPy does, which wraps around.
    environment = {"EVENLOAD_EFFORT": "fast"}  # the interpreter is slow
    other = start({**environment, "NUMBA_DISABLE_JIT": "1"}, "small")
    said = outputs({"plain": start(environment, "small"), "other": other})
    tests, plans = zip(*(text.split() for text in said.values()), strict=True)
    assert (plans[0] == plans[1]) == (tests[0] == tests[1])


# ---- the self-test -------------------------------------------------------------------------------


def test_the_self_test_goes_every_way():
    wider = {0 if p.current is None else p.current.shape[1] - p.num_slots for p in problems()}
    assert wider == {0, 12}
    assert any((p.current == EMPTY).any() for p in problems() if p.current is not None)
    for current in (True, False):
        some = [p for p in problems() if (p.current is None) != current]
        assert any(p.num_groups % p.num_nodes == 0 and p.num_nodes > 1 for p in some)
        assert any(p.alive is not None for p in some)
        assert {len(p.windows) > 1 for p in some} == {False, True}


def otherwise(monkeypatch, change):
    """Let the self-test's plans be changed: `change` gets each request and its map, to write to."""

    def changed(request, settings):
        outcome = plan_map(request, settings)
        if settings.solver == "greedy":  # what the others are measured by
            return outcome
        placed = outcome.map.copy()
        found = change(request, placed)
        return replace(outcome, map=placed, **(found or {}))

    monkeypatch.setattr(selftest, "plan_map", changed)


def an_expert_gone(request, placed):
    placed[0][placed[0] == 3] = 4


def out_of_range(request, placed):
    placed[0, 0] = 99


def another_slot(request, placed):
    if request.alive is None:
        placed[:] = placed.reshape(len(placed), request.num_ranks, -1)[:, :, ::-1].reshape(
            placed.shape
        )


def an_idle_layer(request, placed):
    placed[~request.sound] = np.roll(placed[~request.sound], 6, axis=1)


def worse_than_greedy(request, placed):
    return {"after": 0.5} if request.current is None else None


def worse_than_what_runs(request, placed):
    return None if request.current is None else {"after": 0.1}


def a_duplicate(request, placed):
    """Give the first rank one of its experts twice, in place of one that lives elsewhere too."""
    row = placed[0]
    for slot in range(6):
        if request.current is None and row[slot] >= 0 and (row == row[slot]).sum() > 1:
            row[slot] = row[(slot + 1) % 6]
            return


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (an_expert_gone, "is none: .* expert 3 has no slot in layer 0"),
        (out_of_range, r"is none: physical_to_logical\[0, 0\]=99 is not an expert"),
        (another_slot, "moves expert .* from slot to slot of a rank"),
        (an_idle_layer, "changes a layer without load"),
        (worse_than_greedy, "has balancedness 0.5.*, and the greedy one 0.9"),
        (worse_than_what_runs, "has balancedness 0.1.*, and what runs 0.6"),
        (a_duplicate, "has an expert twice on a rank, which can be avoided"),
    ],
)
def test_the_self_test_refuses_plans_that_are_wrong_or_bad(monkeypatch, change, says):
    otherwise(monkeypatch, change)
    with pytest.raises(ValueError, match=f"the self-test's plan . by solver='auto' {says}"):
        self_test(Settings())


def test_another_good_solver_passes_and_is_told_apart(monkeypatch):
    plain = self_test(Settings())
    assert self_test(Settings()) == plain
    solved = plan.solve_problem

    def better(problem, solver, **options):
        return solved(problem, solver, **{"move_cost": 0.0, **options})

    monkeypatch.setattr(
        plan, "solve_problem", lambda p, s, **o: (better if p.current else solved)(p, s, **o)
    )
    assert self_test(Settings()) != plain


def test_the_users_settings_are_tried_and_told_apart():
    assert self_test(Settings(solver="greedy")) != self_test(Settings())
    with pytest.raises(ValueError, match="solver='best' is unknown"):
        self_test(Settings(solver="best"))


def test_what_shapes_a_plan_shapes_the_fingerprint():
    assert fingerprint(Settings(num_threads=3)) == fingerprint(Settings())
    assert fingerprint(Settings(max_moves=3)) != fingerprint(Settings())


# ---- the comparison ------------------------------------------------------------------------------

REQUEST = problems()[0]


def rebalance(other, planner=None, first=True):
    """Rebalance beside one more rank, which says `other` of what this one says."""
    planner = planner or Planner("vLLM", Settings(), b"alike")
    return planner.rebalance(
        REQUEST, lambda: REQUEST.kept, lambda mine: [mine, other(mine)], LOGGER, first
    )


def test_ranks_that_differ_in_policy_are_told_apart_even_while_their_plans_agree(caplog):
    placed = rebalance(lambda mine: mine[:32] + b"x" * 16)
    assert (placed == plan_map(REQUEST, Settings()).map).all()
    assert "ranks have different policies or options, or their self-tests do" in caplog.text
    assert "this time their plans are the same" in caplog.text


def test_ranks_whose_self_tests_plan_otherwise_have_different_policies(monkeypatch):
    mine = planner_for("vLLM", LOGGER)
    assert planner_for("vLLM", LOGGER).policy == mine.policy
    monkeypatch.setattr(selftest, "self_test", lambda settings: b"other")
    assert planner_for("vLLM", LOGGER).policy != mine.policy


def test_the_camps_are_named():
    ballots = [b"a" * 48, b"a" * 48, b"a" * 32 + b"b" * 16]
    assert differences(ballots[:2]) == ""
    assert differences(ballots).endswith("61616161 on 2 (rank 0, 1); 62626262 on 1 (rank 2)")
    many = differences([b"a" * 48] * 9 + [b"b" * 48])
    assert many.startswith("ranks have different loads or old maps: ")
    assert "on 9 (rank 0, 1, 2, 3, 4, 5, 6, 7, ...); " in many


def test_only_the_first_rank_speaks(caplog):
    with caplog.at_level(logging.INFO):
        rebalance(lambda mine: b"x" * 48, first=False)
    assert not caplog.records


def test_a_failure_of_one_rank_is_told_there(monkeypatch, caplog):
    def fail(request, settings):
        raise MemoryError("no room")

    monkeypatch.setattr(planner, "plan_map", fail)
    assert (rebalance(lambda mine: mine, first=False) == REQUEST.kept).all()
    assert "no plan on this rank" in caplog.text
    assert "no room" in caplog.text


def test_the_layout_in_memory_makes_no_difference_to_what_ranks_compare():
    said = []

    def compared(layout):
        request = Request(layout(REQUEST.windows), layout(REQUEST.current), 24, 4)
        Planner("vLLM", Settings()).rebalance(
            request, lambda: request.kept, lambda mine: said.append(mine) or [mine], LOGGER
        )

    compared(np.ascontiguousarray)
    compared(np.asfortranarray)
    assert said[:3] == said[3:]
