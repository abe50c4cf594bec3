"""Ranks hand in ballots over a store: all get the same list, or none does."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import FileStore, HashStore, PrefixStore, TCPStore

from evenload.ballots import hand_in
from evenload.plugins.peers import KEPT, LateError, Peers

RANKS = 4


def stores(kind, tmp_path):
    if kind == "tcp":
        server = TCPStore("127.0.0.1", 0, RANKS, True, wait_for_workers=False)
        return [server, *(TCPStore("127.0.0.1", server.port, RANKS, False) for _ in range(3))]
    if kind == "file":
        return [FileStore(str(tmp_path / "store"), RANKS) for _ in range(RANKS)]
    return [HashStore()] * RANKS


@pytest.fixture(params=["tcp", "file", "hash"])
def group(request, tmp_path):
    return [Peers(PrefixStore("group", store), rank, RANKS, 60.0)
            for rank, store in enumerate(stores(request.param, tmp_path))]  # fmt: skip


def come(group, rounds, late=None):
    """What each rank got in each round; a rank comes to a round `late` seconds after the others."""

    def run(rank):
        got = []
        for number in range(rounds):
            time.sleep((late or {}).get((rank, number), 0.0))
            try:
                got.append(group[rank].rounds()(bytes([rank, number % 256])))
            except LateError as error:
                got.append(str(error))
        return got

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(run, range(RANKS)))


def test_all_get_the_ballots_of_all(group):
    got = come(group, 5)
    assert got == [[[bytes([rank, n]) for rank in range(RANKS)] for n in range(5)]] * RANKS


def test_a_rank_that_is_late_gets_no_list_either_and_all_go_on(group):
    late = group.pop()
    for peers in group:
        peers.timeout = 0.05
    with ThreadPoolExecutor(RANKS) as pool:
        for told in [pool.submit(peers.rounds(), b"early") for peers in group]:
            with pytest.raises(LateError, match=r"within 0\.05 s \(rank 3 did not\); install"):
                told.result()
    with pytest.raises(LateError):
        late.rounds()(b"late")
    for peers in group:
        peers.timeout = late.timeout
    assert come([*group, late], 1) == [[[bytes([rank, 0]) for rank in range(RANKS)]]] * RANKS


def test_without_a_limit_the_others_are_waited_for():
    shared = HashStore()
    group = [Peers(shared, rank, RANKS, 0.0) for rank in range(RANKS)]
    got = come(group, 1, {(1, 0): 0.1})
    assert got == [[[bytes([rank, 0]) for rank in range(RANKS)]]] * RANKS


@pytest.mark.parametrize("seed", range(4))
def test_no_delay_makes_ranks_differ(seed):
    draw = random.Random(seed)
    shared = HashStore()
    group = [Peers(shared, rank, RANKS, 0.05) for rank in range(RANKS)]
    late = {(rank, n): draw.choice([0.0, 0.0, 0.04, 0.05, 0.06, 0.12])
            for rank in range(RANKS) for n in range(8)}  # fmt: skip
    for told in zip(*come(group, 8, late), strict=True):
        lists = [ballots for ballots in told if isinstance(ballots, list)]
        assert len(lists) in (0, RANKS)
        assert all(ballots == lists[0] for ballots in lists)


def test_a_store_does_not_grow_for_ever():
    shared = HashStore()
    group = [Peers(shared, rank, RANKS, 5.0) for rank in range(RANKS)]
    come(group, KEPT)
    full = shared.num_keys()
    come(group, 2 * KEPT)
    assert shared.num_keys() <= full + RANKS


def test_a_wait_names_who_is_missing_and_ends_where_somebody_else_ends_it():
    store = HashStore()
    start = time.monotonic()
    assert hand_in(store, ["a", "b", "c"], 1, "said", 0.05) == [0, 2]
    assert time.monotonic() - start < 1.0
    store.set("end", "over")
    assert hand_in(store, ["a", "b"], 0, "said", 0.0, "end") == []
    assert hand_in(store, ["a", "c"], 0, "said", 0.0, "end") == [1]
