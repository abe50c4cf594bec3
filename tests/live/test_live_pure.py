"""The protocol without processes: ranks are threads, and messages lie in memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from live_ranks import row_bytes
from torch.distributed import HashStore

from evenload import Cluster, Placement
from evenload.live.mover import Mover
from evenload.live.proposal import Proposal, digest_of, pack, unpack
from evenload.live.rows import Rows
from evenload.live.states import NEXT, Layer, Rank, States
from evenload.live.transaction import AHEAD, Decision, UndecidedError, Vote
from evenload.live.transport import BrokenError

RANKS, EXPERTS, SIZE = 3, 4, 24
CLUSTER = Cluster(RANKS, slots_per_gpu=2)
BEFORE = np.array([[0, 1, 2, 3, 0, 2], [0, 1, 2, 3, 1, 3]])
AFTER = np.array([[3, 1, 2, 0, 0, 1], [1, 0, 2, 3, 1, 2]])


class Loop:
    """Ranks of one process: an exchange and a maximum, over dictionaries."""

    def __init__(self, ranks):
        self.box, self.changed = {}, threading.Condition()
        self.ranks, self.numbers, self.gone = ranks, {}, set()

    def of(self, rank):
        return LoopTransport(self, rank)


class LoopTransport:
    def __init__(self, loop, rank):
        self.loop, self.rank, self.round, self.flip = loop, rank, 0, False
        self.breaks_at = None  # round after which this rank is gone

    def exchange(self, sent, received):
        loop = self.loop
        with loop.changed:
            for message in sent:
                loop.box[self.rank, message.rank, message.tag] = message.tensor.clone()
            loop.changed.notify_all()
            for message in received:
                key = message.rank, self.rank, message.tag
                self._wait(lambda key=key: key in loop.box)
                message.tensor.copy_(loop.box.pop(key))
        if self.flip and received:
            received[0].tensor[3] ^= 1
            self.flip -= 1

    def most(self, numbers):
        loop, number = self.loop, self.round
        self.round += 1
        with loop.changed:
            if self.breaks_at == number:
                loop.gone.add(self.rank)
                loop.changed.notify_all()
                raise BrokenError("this rank is gone")
            loop.numbers.setdefault(number, {})[self.rank] = list(numbers)
            loop.changed.notify_all()
            self._wait(lambda: len(loop.numbers[number]) == len(loop.ranks))
            return [max(c) for c in zip(*loop.numbers[number].values(), strict=True)]

    def _wait(self, done):
        while not done():
            if self.loop.gone:
                raise BrokenError(f"ranks {self.loop.gone} are gone")
            assert self.loop.changed.wait(20.0), "a wait without an end"

    def close(self):
        pass


class NoStore:
    """A store that has died."""

    def compare_set(self, key, expected, wanted):
        raise RuntimeError("no store")


def make_rank(rank, loop, store, **how):
    slots = BEFORE[:, 2 * rank : 2 * rank + 2]
    tensors = [[torch.zeros(3, SIZE, dtype=torch.uint8)] for _ in BEFORE]
    for layer, experts in enumerate(slots.tolist()):
        for slot, expert in enumerate(experts):
            tensors[layer][0][slot] = row_bytes(layer, expert, SIZE)
    mover = Mover(
        rank, Placement(BEFORE, CLUSTER, EXPERTS), Rows(tensors, slots), store,
        States(len(BEFORE), lambda point: None), budget=how.pop("budget", 3 * SIZE), restore=None,
        with_sums=how.pop("with_sums", True),
    )  # fmt: skip
    mover.number = 10 + rank
    transport = loop.of(rank)
    return mover, transport


@pytest.fixture
def group():
    loop, store = Loop(range(RANKS)), HashStore()
    return [make_rank(rank, loop, store) for rank in range(RANKS)]


def proposal(group, target=AFTER):
    mover = group[0][0]
    return Proposal.make(BEFORE, target, CLUSTER, mover.room, {})


def run(group, plan, at_once=True):
    def one(rank):
        mover, transport = group[rank]
        return mover.run(plan, transport, "plan/1/0", at_once)

    with ThreadPoolExecutor(len(group)) as pool:
        return list(pool.map(one, range(len(group))))


def check(group, wanted):
    for rank, (mover, _) in enumerate(group):
        np.testing.assert_array_equal(mover.map, wanted)
        for layer in range(len(wanted)):
            for slot, expert in enumerate(wanted[layer, 2 * rank : 2 * rank + 2].tolist()):
                row = int(mover.weights.tables[layer][slot])
                held = mover.weights.tensors[layer][0][row]
                assert torch.equal(held, row_bytes(layer, expert, SIZE))


def test_a_plan_is_taken_by_all(group):
    outcomes = run(group, proposal(group))
    assert {(o.reason, o.broken) for o in outcomes} == {("", "")}
    assert len({o.moved for o in outcomes}) == 1
    assert outcomes[0].num_bytes == outcomes[0].moved * SIZE
    check(group, AFTER)


def test_layers_change_over_two_steps_after_the_latest_vote(group):
    loop, store = Loop(range(RANKS)), HashStore()
    group = [make_rank(r, loop, store, budget=10**6) for r in range(RANKS)]
    plan = proposal(group)
    plan = Proposal(plan.base, plan.alive, plan.layers[:1], plan.maps[:1])
    run(group, plan, at_once=False)
    for mover, _ in group:
        assert {due.step for due in mover.due} == {10 + RANKS - 1 + AHEAD}
        mover.pass_step(13, 1.0)
        np.testing.assert_array_equal(mover.map, BEFORE)
        mover.pass_step(14, 1.0)
        assert mover.due == []
        np.testing.assert_array_equal(mover.map[plan.layers[0]], plan.maps[0])
        assert mover.states.layer[plan.layers[0]] == Layer.FLIPPED


def test_who_has_promised_waits_and_not_for_ever(group):
    mover = group[0][0]
    mover.states.layer[0] = Layer.STAGING
    assert mover._promise(0) == 10
    mover.pass_step(11, 0.1)
    with pytest.raises(BrokenError, match="a vote was not decided"):
        mover.pass_step(12, 0.1)


@pytest.mark.parametrize("stale", [False, True])
def test_a_plan_for_another_map_is_refused_by_all(group, stale):
    plan = proposal(group)
    if stale:
        group[1][0].decided = AFTER.copy()
    else:
        plan = Proposal(plan.base, (True, True, False), plan.layers, plan.maps)
    outcomes = run(group, plan)
    assert all(o.reason and not o.moved for o in outcomes)
    assert any("another map" in o.reason or "other ranks" in o.reason for o in outcomes)


@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_byte_is_found_and_tried_once_more(group, times):
    victim = next(r for r in range(RANKS) if proposal(group).links(BEFORE, CLUSTER)[0].arriving(r))
    group[victim][1].flip = times
    outcomes = run(group, proposal(group))
    if times == 1:
        assert {o.reason for o in outcomes} == {""}
        check(group, AFTER)
    else:
        assert {(o.reason, o.moved) for o in outcomes} == {("checksum", 0)}
        check(group, BEFORE)


def test_without_checksums_a_flipped_byte_is_not_found():
    loop, store = Loop(range(RANKS)), HashStore()
    group = [make_rank(r, loop, store, with_sums=False) for r in range(RANKS)]
    victim = next(r for r in range(RANKS) if proposal(group).links(BEFORE, CLUSTER)[0].arriving(r))
    group[victim][1].flip = 1
    run(group, proposal(group))
    with pytest.raises(AssertionError):
        check(group, AFTER)


def test_somebody_who_wants_no_more_stops_all(group):
    group[2][0].stop.set()
    outcomes = run(group, proposal(group))
    assert {(o.reason, o.moved) for o in outcomes} == {("stopped", 0)}
    check(group, BEFORE)


# Rounds of a link: 0 is the plan's own; then staged, voted, settled.
@pytest.mark.parametrize(("at", "commits"), [(0, False), (1, False), (2, False), (3, True)])
@pytest.mark.parametrize("victim", range(RANKS))
def test_a_death_at_any_round_leaves_one_word(group, victim, at, commits):
    group[victim][1].breaks_at = at
    outcomes = run(group, proposal(group))
    left = [rank for rank in range(RANKS) if rank != victim]
    assert all(outcomes[rank].broken for rank in left)
    maps = {digest_of(group[rank][0].map) for rank in left}
    assert len(maps) == 1
    assert (digest_of(BEFORE) not in maps) == commits


def test_a_store_that_dies_leaves_the_map_on_all_and_the_group_whole(group):
    for mover, _ in group:
        mover.store = NoStore()
    outcomes = run(group, proposal(group))
    assert {(o.broken, o.moved) for o in outcomes} == {("", 0)}
    check(group, BEFORE)


@pytest.mark.parametrize("who", range(RANKS))
def test_who_lost_the_store_hears_the_word_from_the_others(group, who):
    group[who][0].store = NoStore()
    outcomes = run(group, proposal(group))
    assert {(o.reason, o.broken) for o in outcomes} == {("", "")}
    check(group, AFTER)


def test_who_lost_both_goes_no_further(group):
    group[0][0].store = NoStore()
    group[1][1].breaks_at = 3
    with pytest.raises(UndecidedError, match="no store"):
        run(group, proposal(group))


def test_words_and_maps_survive_their_way():
    for decision in (Decision(True, 7), Decision(False, reason="lost")):
        assert Decision.read(decision.word) == decision
    np.testing.assert_array_equal(unpack(pack(AFTER), 6), AFTER)
    plan = Proposal("ab", (True,) * 3, [1], AFTER[:1], {"why": "start"})
    again = Proposal.decode(plan.encode(), 6)
    assert (again.base, again.alive, again.layers, again.facts) == (
        "ab",
        (True,) * 3,
        [1],
        plan.facts,
    )
    with pytest.raises(ValueError, match="a plan does not have its digest"):
        Proposal.decode(plan.encode().replace('"ab"', '"ac"'), 6)
    assert max(Vote) is Vote.INVALID


def test_states_go_only_where_they_may():
    states = States(1, lambda point: None)
    with pytest.raises(AssertionError, match="idle -> decided"):
        states.go(Layer.DECIDED, 0)
    assert set(NEXT) == {*Layer, *Rank}
    assert all(after in NEXT for follow in NEXT.values() for after in follow)


def test_rows_are_refused_where_they_cannot_be_moved():
    slots = np.array([[0, 1]])
    for tensors, why in (
        ([], "tensors are of 0 layers, and the placement has 1"),
        ([[torch.zeros(2, 4)]], "moves need a spare one; use 3 or more"),
        ([[torch.zeros(3, 4), torch.zeros(4, 4)]], "use contiguous ones with as many rows each"),
        ([[torch.zeros(4, 3).T]], "use contiguous ones with as many rows each"),
    ):
        with pytest.raises(ValueError, match=why):
            Rows(tensors, slots)


def test_an_expert_in_two_slots_of_a_rank_takes_one_row():
    rows = Rows([[torch.zeros(4, 8)]], np.array([[5, 5]]))
    assert rows.free(0) == [1, 2, 3]
    rows.flip(0, np.array([5, 7]), {7: 3})
    assert rows.tables[0].tolist() == [0, 3]
    old = rows.tensors[0][0]
    rows.renew(0)
    assert rows.tensors[0][0].data_ptr() != old.data_ptr()
