"""SGLang's elastic ranks, each with its own view of who is there: they share a map, or keep theirs.

Without SGLang; one rank is one thread.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from evenload.plugins import peers, sglang
from evenload.plugins.peers import Peers
from evenload.plugins.plan import Request
from evenload.plugins.planner import Planner
from evenload.plugins.settings import Settings

TOKENS = torch.tensor(np.random.default_rng(5).integers(1, 99, (5, 3, 16)), dtype=torch.int32)
LINEAR = np.tile(np.arange(24) % 16, (3, 1))
ALL, WITHOUT_1 = (True,) * 4, (True, False, True, True)


class Elastic:
    """Elastic ranks in threads, over one store; each sees what it sees."""

    def __init__(self, monkeypatch, timeout=0.5):
        self.of, store = threading.local(), torch.distributed.HashStore()
        self.ranks = [Peers(store, rank, 4, timeout) for rank in range(4)]
        self.planners = [Planner("SGLang", Settings()) for _ in range(4)]
        for each in self.planners:
            each.serving = True
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(sglang, "planner", lambda: self.planners[self.of.rank])
        monkeypatch.setattr(peers, "of_world", lambda *_: self.ranks[self.of.rank])
        monkeypatch.setattr(sglang, "joins", lambda: False)
        monkeypatch.setattr(sglang, "dispatch_of_engine", lambda: "even")
        monkeypatch.setattr(sglang, "has_scaled", lambda: False)
        monkeypatch.setattr(sglang, "running_map", lambda *_: LINEAR)
        monkeypatch.setattr(sglang, "living_ranks", lambda _: self.of.view)

    def rebalance(self, views, tokens=None):
        """Rebalance on each rank with a view; what each made of the map, by rank."""

        def run(rank):
            self.of.rank, self.of.view = rank, views[rank]
            said = (tokens or {}).get(rank, TOKENS)
            plans = sglang.Algorithm("elasticity_aware", "SGLang's")
            return sglang.rebalance_experts(None, said, 24, 6, None, 2, plans)[0].numpy()

        with ThreadPoolExecutor(4) as pool:
            return dict(zip(views, pool.map(run, views), strict=True))


def same(maps):
    first, *others = maps
    return all(np.array_equal(first, other) for other in others)


KEPT = Request(np.ones((1, 3, 16)), LINEAR, 24, 4, alive=WITHOUT_1).kept


def test_survivors_who_see_just_each_other_plan_and_go_on(monkeypatch, caplog):
    elastic = Elastic(monkeypatch)
    for number in range(2):
        maps = elastic.rebalance(dict.fromkeys(range(4), ALL))
        assert same(maps.values())
        assert not np.array_equal(maps[0], LINEAR), number
    with caplog.at_level(logging.INFO, "sglang.evenload"):
        maps = elastic.rebalance(dict.fromkeys((0, 2, 3), WITHOUT_1))
    assert same(maps.values())
    assert (maps[0][:, 6:12] == 0).all()
    assert "moves" in caplog.text
    assert not any(record.levelno > logging.INFO for record in caplog.records)


def test_ranks_of_different_views_keep_the_map_that_runs_and_go_on(monkeypatch, caplog):
    elastic = Elastic(monkeypatch)
    maps = elastic.rebalance({0: ALL, 1: ALL, 2: ALL, 3: WITHOUT_1})
    assert all(np.array_equal(placed, LINEAR) for placed in maps.values())
    assert "the old map stays: ranks do not see the same ranks alive" in caplog.text
    assert same(elastic.rebalance(dict.fromkeys(range(4), ALL)).values())


def test_a_rank_that_the_others_do_not_see_keeps_its_map_and_meets_them_again(monkeypatch):
    elastic = Elastic(monkeypatch)
    maps = elastic.rebalance({0: WITHOUT_1, 1: ALL, 2: WITHOUT_1, 3: WITHOUT_1})
    assert np.array_equal(maps.pop(1), LINEAR)
    assert same(maps.values())
    maps = elastic.rebalance(dict.fromkeys(range(4), ALL))
    assert same(maps.values())
    assert not np.array_equal(maps[0], LINEAR)


def test_a_survivor_that_does_not_come_or_plans_otherwise_keeps_the_map(monkeypatch, caplog):
    elastic = Elastic(monkeypatch)
    maps = elastic.rebalance(dict.fromkeys((0, 2), WITHOUT_1))
    late = elastic.rebalance({3: WITHOUT_1})  # it obeys what became of that
    assert all(np.array_equal(placed, LINEAR) for placed in (maps | late).values())
    assert "(rank 3 did not)" in caplog.text
    maps = elastic.rebalance(dict.fromkeys((0, 2, 3), WITHOUT_1), {3: TOKENS.flip(2)})
    assert all(np.array_equal(placed, np.where(KEPT < 0, 0, KEPT)) for placed in maps.values())
    assert "ranks have different loads or old maps" in caplog.text
    assert " on 1 (rank 3)" in caplog.text


def test_a_rank_that_joins_begins_with_the_others_next_rebalance(monkeypatch):
    elastic = Elastic(monkeypatch, timeout=30.0)  # none is late, however slow the machine
    for _ in range(3):
        elastic.rebalance(dict.fromkeys((0, 2, 3), WITHOUT_1))
    store = elastic.ranks[0].store
    elastic.ranks[1] = Peers(store, 1, 4, 30.0, joins=True)
    for _ in range(2):
        maps = elastic.rebalance(dict.fromkeys(range(4), ALL))
        assert same(maps.values())
        assert not np.array_equal(maps[0], LINEAR)


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_joins_meets_the_others_whoever_begins(first):
    store = torch.distributed.HashStore()
    ranks = [Peers(store, 0, 2, 30.0, alive=(0,))]
    for _ in range(3):
        ranks[0].rounds()(b"alone")
    ranks[0].alive = (0, 1)
    ranks.append(Peers(store, 1, 2, 30.0, alive=(0, 1), joins=True))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            begun = {rank: ranks[rank].rounds() for rank in (first, 1 - first)}
            for heard in pool.map(lambda rank: begun[rank](b"%d" % rank), range(2)):  # noqa: B023
                assert heard == [b"0", b"1"]


def test_after_a_scale_up_rank_0_plans_alone(monkeypatch):
    elastic = Elastic(monkeypatch)
    monkeypatch.setattr(sglang, "has_scaled", lambda: True)
    maps = elastic.rebalance({0: ALL})
    assert not np.array_equal(maps[0], LINEAR)
