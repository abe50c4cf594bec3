"""What a rebalance hands back: ours, the engine's own, or the map that runs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from torch.distributed import HashStore

from evenload.ballots import PART
from evenload.placement import Placement
from evenload.plugins.peers import NEXT, LateError, Peers
from evenload.plugins.plan import Request, plan_map
from evenload.plugins.planner import Planner
from evenload.plugins.settings import Settings, read_settings

LOG = logging.getLogger("evenload.test")
L, E, SLOTS, RANKS = 4, 16, 24, 4
LINEAR = np.tile(np.arange(SLOTS) % E, (L, 1))
OWN = np.tile(np.arange(SLOTS)[::-1] % E, (L, 1))


def load(seed):
    hot = np.random.default_rng(0).integers(1, 60, (1, L, E)) ** 3
    return hot + np.random.default_rng(seed).integers(0, 2000, (1, L, E))


def request(seed, runs=LINEAR):
    return Request(load(seed), runs, SLOTS, RANKS)


def alone(mine):
    return [mine]


def rebalance(planner, asked, compare=alone):
    return planner.rebalance(asked, OWN.copy, compare, LOG)


# ---- windows ---------------------------------------------------------------------------------


def test_a_plan_holds_under_the_last_windows():
    planner, runs = Planner("vLLM", Settings(history=3)), LINEAR
    for seed in range(5):
        last = np.concatenate([load(s) for s in range(max(0, seed - 2), seed + 1)])
        wanted = plan_map(replace(request(seed, runs), windows=last), Settings(history=3)).map
        runs = rebalance(planner, request(seed, runs))
        np.testing.assert_array_equal(runs, wanted)


def test_a_window_without_load_and_one_of_another_model_are_not_remembered():
    planner = Planner("vLLM", Settings())
    rebalance(planner, Request(load(0) * 0, LINEAR, SLOTS, RANKS))
    rebalance(planner, Request(load(0)[:, :2], LINEAR[:2], SLOTS, RANKS))
    wanted = plan_map(request(1), Settings()).map
    np.testing.assert_array_equal(rebalance(planner, request(1)), wanted)


@pytest.mark.parametrize("first", [1, 3], ids=["all differ", "the last was there before"])
def test_ranks_plan_from_the_windows_that_all_have_seen(caplog, first):
    """The other rank came later: it knows the last two windows only."""
    planner, runs = Planner("vLLM", Settings()), LINEAR

    def other(mine):
        return [mine, mine if len(mine) == 3 * PART else mine[:1] + mine[1:][-2 * PART :]]

    with caplog.at_level(logging.INFO):
        for seed in (0, first, 2, 3):
            before, runs = runs, rebalance(planner, request(seed, runs), other)
    last = np.concatenate([load(2), load(3)])
    wanted = plan_map(replace(request(3, before), windows=last), Settings()).map
    np.testing.assert_array_equal(runs, wanted)
    assert "2 windows" in caplog.messages[-1]


# ---- beside the engine's own -----------------------------------------------------------------


def test_a_shadow_hands_back_the_engines_own_and_tells_of_both(caplog):
    planner = Planner("vLLM", Settings(shadow=True))
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(rebalance(planner, request(0)), OWN)
    ours = plan_map(request(0), Settings(shadow=True)).after
    own = request(0).balancedness(OWN)
    assert f"shadow: ours would be balancedness 0.{f'{ours:.4f}'[2:]}"[:20] in caplog.text
    assert f"-> {ours:.4f}" in caplog.text
    cluster = request(0).cluster
    moves = Placement(OWN, cluster, E).moves_from(Placement(LINEAR, cluster, E)).sum()
    assert moves > 0
    assert f"the engine's own has {own:.4f}, {moves} moves" in caplog.text


def test_a_shadow_counts_no_moves_of_what_no_placement_is(caplog):
    with caplog.at_level(logging.INFO):
        Planner("vLLM", Settings(shadow=True)).rebalance(
            request(0), lambda: np.zeros_like(OWN), alone, LOG
        )
    assert "the engine's own has nan, " in caplog.text
    assert "None" not in caplog.text


@pytest.mark.parametrize(("canary", "layers"), [("0,2", [0, 2]), ("first:3", [0, 1, 2]), ("9", [])])
def test_a_canary_plans_its_layers_only(canary, layers):
    settings = Settings(canary=canary)
    placed = rebalance(Planner("vLLM", settings), request(0))
    wanted = OWN.copy()
    wanted[layers] = plan_map(request(0), settings).map[layers]
    np.testing.assert_array_equal(placed, wanted)


@pytest.mark.parametrize("text", ["first:", "first:1,2", "a", "1;2", "-1"])
def test_a_canary_that_names_no_layers_is_refused(text):
    with pytest.raises(ValueError, match=r"EVENLOAD_CANARY='.*' is not a list of layers; use e\.g"):
        read_settings({"EVENLOAD_CANARY": text})


# ---- switches --------------------------------------------------------------------------------


def test_while_there_is_a_file_the_map_that_runs_stays(tmp_path, caplog):
    switch = tmp_path / "stop"
    planner = Planner("vLLM", Settings(kill_switch=str(switch)))
    switch.touch()
    np.testing.assert_array_equal(rebalance(planner, request(0)), LINEAR)
    assert "the old map stays: the kill switch is on" in caplog.text
    switch.unlink()
    assert (rebalance(planner, request(1)) != LINEAR).any()


def test_a_stop_is_a_warning_when_it_begins_and_ends_and_no_error(tmp_path, caplog):
    switch = tmp_path / "stop"
    planner = Planner("vLLM", Settings(kill_switch=str(switch)))
    switch.touch()
    with caplog.at_level(logging.INFO):
        for compare in (alone, alone, late_once(planner), alone):
            rebalance(planner, request(0), compare)
        switch.unlink()
        for _ in range(2):
            rebalance(planner, request(0))
        planner.stop("a move changed weights")
        for _ in range(2):
            rebalance(planner, request(0))
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    says = [("WARNING", "the kill switch is on"), ("INFO", "the kill switch is on"),
            ("ERROR", "not every rank came"), ("INFO", "the kill switch is on"),
            ("WARNING", "no longer stopped: balancedness"), ("INFO", "balancedness"),
            ("WARNING", "paused: a move changed weights"), ("INFO", "paused: a move")]  # fmt: skip
    assert [level for level, _ in told] == [level for level, _ in says]
    assert all(text in line for (_, line), (_, text) in zip(told, says, strict=True))


def late_once(planner):
    """Compare as on a rank that serves, and that others do not come to."""
    planner.serving = True
    return late


def test_a_switch_on_one_rank_stops_all():
    planner = Planner("vLLM", Settings())
    placed = rebalance(planner, request(0), lambda mine: [mine, b"\x01" + mine[1:]])
    np.testing.assert_array_equal(placed, LINEAR)


def bad_plans(planner, worse):
    """Rebalance so that each new map is `worse` for the next window than the one before it."""
    before = runs = LINEAR
    kept = []
    for number, bad in enumerate(worse):
        asked = request(100 + number, runs)
        if number:  # all load on the experts of one rank of the new map, or a load as before
            window = np.ones((1, L, E), np.int64)
            if bad:
                for layer in range(L):
                    window[0, layer, np.setdiff1d(runs[layer, :6], before[layer, :6])] = 10**6
            asked = Request(window, runs, SLOTS, RANKS)
        before, runs = runs, rebalance(planner, asked)
        kept.append(bool((before == runs).all()))
    return kept


def test_after_two_maps_in_a_row_that_were_better_before_it_pauses(caplog):
    planner = Planner("vLLM", Settings(history=1, move_cost=0.0))
    kept = bad_plans(planner, [False, True, True, True])
    assert kept[-1]
    assert not any(kept[:2])
    assert "paused: after 2 rebalances in a row the map before would have been" in caplog.text
    assert (rebalance(planner, request(5)) == LINEAR).all()


@pytest.mark.parametrize("settings", [Settings(shadow=True), Settings()], ids=["shadow", "failed"])
def test_the_engines_own_maps_pause_nothing(settings):
    """Each of its maps does worse than the one before, for every window."""
    planner = Planner("vLLM", settings, failure="" if settings.shadow else "no kernels")
    maps = [LINEAR, np.random.default_rng(1).permutation(E)[LINEAR]]
    for number in range(6):
        before, runs = maps[number % 2], maps[1 - number % 2]
        worse = (
            Request(np.random.default_rng(seed).integers(1, 60, (1, L, E)) ** 3, runs, SLOTS, RANKS)
            for seed in range(1000)
        )
        asked = next(r for r in worse if r.balancedness(before) > r.balancedness(runs) + 0.02)
        planner.rebalance(asked, before.copy, alone, LOG)
    assert not planner.pause


def test_a_rank_pauses_with_another():
    planner = Planner("vLLM", Settings())
    rebalance(planner, request(0), lambda mine: [mine, bytes([mine[0] | 2]) + mine[1:]])
    assert (rebalance(planner, request(1)) == LINEAR).all()


@pytest.mark.parametrize("failure", ["", "no kernels"])
def test_a_rank_whose_kernels_fail_comes_to_the_comparison(monkeypatch, failure):
    def fail(*_):
        raise ImportError("no kernels")

    monkeypatch.setattr(Request, "balancedness", fail)
    handed = []
    planner = Planner("vLLM", Settings(), failure=failure)
    rebalance(planner, request(0), lambda mine: handed.append(mine) or [mine])
    assert len(handed) == 3


# ---- ranks that do not come --------------------------------------------------------------------


def late(mine):
    raise LateError("not every rank came")


def test_before_serving_a_rank_that_does_not_come_is_an_error():
    with pytest.raises(LateError):
        rebalance(Planner("vLLM", Settings()), request(0), late)


@pytest.mark.parametrize("second", [False, True])
def test_once_it_serves_the_map_that_runs_stays(second, caplog):
    planner = Planner("vLLM", Settings())
    runs = rebalance(planner, request(0))

    def sometimes(mine):
        return late(mine) if (len(mine) == 3 * PART) == second else [mine]

    np.testing.assert_array_equal(rebalance(planner, request(1, runs), sometimes), runs)
    assert "the old map stays: not every rank came" in caplog.text
    assert (rebalance(planner, request(2, runs)) != runs).any()


class CutOff:
    """A store that one rank loses right after it has handed in its `last` ballot."""

    def __init__(self, store, last, error):
        self.store, self.left, self.error = store, last, error

    def __getattr__(self, name):
        def ask(*args):
            if self.left == 0:
                raise self.error("the store is gone")
            self.left -= name == "set" and args[0] != NEXT
            return getattr(self.store, name)(*args)

        return ask


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize("error", [RuntimeError, ConnectionError])
def test_a_rank_that_loses_the_store_keeps_all_from_moving_and_all_go_on_when_it_is_back(
    last, error
):
    """What it hands in the third time is its last word: nobody can tell whether it was heard."""
    shared = HashStore()
    cut = CutOff(shared, last, error)
    group = [Peers(store, rank, 3, 1.0) for rank, store in enumerate([cut, shared, shared])]
    planners = [Planner("vLLM", Settings()) for _ in group]
    for planner in planners:
        planner.serving = True

    def run(rank):
        """Rebalance twice: the rank that lost the store goes on while the others wait for it."""
        first = rebalance(planners[rank], request(0), group[rank].rounds())
        group[rank].timeout = 60.0
        if rank == 0:
            cut.left = 100
        return first, rebalance(planners[rank], request(0), group[rank].rounds())

    with ThreadPoolExecutor(3) as pool:
        (kept, placed), *others = pool.map(run, range(3))
    np.testing.assert_array_equal(kept, LINEAR)
    assert (placed != LINEAR).any()
    for theirs in others:
        np.testing.assert_array_equal(theirs, (kept, placed))
