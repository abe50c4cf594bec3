"""A layer under search: any layer by chance, its kernels behind one entry, and what slots say."""

import numpy as np

from evenload.core.compile import Float, Int, Int1, Int2, entry
from evenload.core.place import Scratch, ScratchType
from evenload.core.search import _disturb, search
from evenload.core.start import FIRST, NEVER, NODE, SLOTS, UNIT_TIME
from evenload.core.state import (
    AT_HOME,
    AWAY,
    COUNT,
    EXPERT,
    FEWER,
    HELD,
    HOME,
    MORE,
    MOVES,
    NOW,
    OLD,
    PEAK,
    SHARE,
    WHOLE,
    State,
    StateType,
    copy_out,
    fill,
    hand_over,
    swap,
)
from evenload.core.swaps import (
    best_swap,
    descend,
    exchange_pairs,
    may_hand_over,
    may_swap,
    part_duplicates,
    take_back,
)

STEPS = (
    "fill",
    "copy_out",
    "swap",
    "hand_over",
    "may_swap",
    "may_hand_over",
    "best_swap",
    "descend",
    "exchange_pairs",
    "take_back",
    "part_duplicates",
    "disturb",
    "search",
)
NO_LOG = np.empty((0, 4), np.int64)


@entry(Int, StateType, ScratchType, Int1, Int1, Int2, Float, Int1)
def _run(step, s, w, x, placed, log, price, result):  # noqa: PLR0912
    """Run a kernel: one entry for all, since each compiles what it reaches."""
    K = s.slot.shape[2]
    if step == 0:
        fill(s, placed)
    elif step == 1:
        copy_out(s, placed)
    elif step == 2:
        swap(s, x[0], x[1], x[2], x[3])
    elif step == 3:
        hand_over(s, x[0], x[1], x[2])
    elif step == 4:
        result[0] = may_swap(s, x[0], x[1], x[2], x[3])
    elif step == 5:
        result[0] = may_hand_over(s, x[0], x[1], x[2])
    elif step == 6:
        result[0], result[1], result[2] = best_swap(s, x[0], x[1], x[2])
    elif step == 7:
        result[0], result[1] = descend(s, x[0], x[1], x[2], log, x[3])
    elif step == 8:
        result[0], result[1] = exchange_pairs(s, x[0], x[1], x[2], log, x[3], w.pairs, K)
    elif step == 9:
        take_back(s, log, x[0])
    elif step == 10:
        part_duplicates(s)
    elif step == 11:
        result[0] = _disturb(s, x[0] > 0, w.random, log)
    else:
        result[0] = search(
            s, x[0], x[1], price, x[2], x[3], x[4] > 0, w.random, log, w.pairs, placed
        )


def gpus(slots, unit_time=None, node=None):
    """Describe GPUs for kernels, see `core.start`: [4, G]."""
    slots, G = np.asarray(slots), len(slots)
    unit_time = np.ones(G, np.int64) if unit_time is None else unit_time
    node = np.zeros(G, np.int64) if node is None else node
    return np.array([slots, np.cumsum(slots) - slots, unit_time, node], np.int64)


class Layer:
    """A state and its scratch, set from a placement [S].

    `whole` [E] or [E, M] is what each expert costs; experts of a `home` [E] other than -1 stay
    there, all replicas if `strict`; `old` [E, G] says what ran before.
    """

    def __init__(self, whole, gpu, placed, home=-1, old=0, strict=False):
        whole = np.asarray(whole, np.int64)
        whole = whole.reshape(len(whole), -1)
        self.gpu = gpu
        self.state = State.empty(gpu, *whole.shape, strict)
        self.scratch = Scratch.empty(gpu, len(whole))
        self.state.cost[WHOLE] = whole
        self.state.expert[HOME] = home
        self.state.held[OLD] = old
        self.fill(placed)

    def run(self, step, *x, log=NO_LOG, placed=None, price=0.0):
        """Run a kernel with numbers for its arguments; what it returns."""
        given, result = np.zeros(6, np.int64), np.full(3, -9)
        given[: len(x)] = x
        placed = np.empty(0, np.int64) if placed is None else placed
        number = STEPS.index(step)
        _run(number, self.state, self.scratch, given, placed, log, price, result)
        return result.tolist()

    def fill(self, placed):
        self.run("fill", placed=np.array(placed, np.int64))

    @property
    def placed(self):
        placed = np.full(self.gpu[SLOTS].sum(), -1)
        self.run("copy_out", placed=placed)
        return placed

    @property
    def experts(self):
        """Experts on each GPU, by ascending number."""
        return [sorted(row.tolist()) for row in np.split(self.placed, self.gpu[FIRST, 1:])]

    @property
    def slots(self):
        """(Share, expert) of each GPU's slots, ascending: what a step taken back must restore."""
        share = self.state.cost[NOW, :, 0].tolist()
        return [sorted((share[e], e) for e in row) for row in self.experts]

    @property
    def peak(self):
        return int(self.state.total[PEAK])

    @property
    def mean(self):
        """Time if the load could be divided at will."""
        unit = self.gpu[UNIT_TIME]
        return int((self.state.time[:, 0] / unit).sum() / (1 / unit).sum())

    @property
    def num_duplicates(self):
        return sum(len(row) - len(set(row)) for row in self.experts)

    def cost(self, price):
        """What a search lowers."""
        return self.peak + int(price * self.state.total[AWAY])

    def check(self):
        """Compare everything that is kept up to date with what the slots say, from scratch."""
        s, gpu, placed = self.state, self.gpu, self.placed
        (E, M), G = s.cost.shape[1:], gpu.shape[1]
        np.testing.assert_array_equal(s.gpu, gpu)
        held = np.zeros((E, G), np.int64)
        np.add.at(held, (placed, np.repeat(np.arange(G), gpu[SLOTS])), 1)
        count = held.sum(axis=1)
        np.testing.assert_array_equal(s.held[HELD], held)
        np.testing.assert_array_equal(s.expert[COUNT], count)
        whole, divisor = s.cost[WHOLE], count[:, None]
        np.testing.assert_array_equal(s.cost[NOW], whole // divisor)
        np.testing.assert_array_equal(s.cost[MORE], whole // (divisor + 1))
        np.testing.assert_array_equal(s.cost[FEWER], whole // np.maximum(divisor - 1, 1))
        np.testing.assert_array_equal(np.sort(s.spare), np.repeat(np.arange(E), count - 1))
        time = held.T @ s.cost[NOW] * gpu[UNIT_TIME][:, None]
        np.testing.assert_array_equal(s.time, time)
        keys = np.sort((-time << s.gpu_bits) | np.arange(G)[:, None], axis=0).T
        if M == 1:
            assert s.slowest[:1].tolist() == keys.tolist()
            for g, n in enumerate(gpu[SLOTS]):
                share = s.slot[SHARE, g, :n]
                np.testing.assert_array_equal(share, s.cost[NOW, s.slot[EXPERT, g, :n], 0])
                assert (np.diff(share) <= 0).all()
        else:
            assert s.slowest.tolist() == [(row + [NEVER] * 3)[:3] for row in keys.tolist()]
        home = s.expert[HOME][:, None]
        away = held * ((home >= 0) & (home != gpu[NODE]))
        np.testing.assert_array_equal(s.expert[AT_HOME], count - away.sum(axis=1))
        beyond = np.maximum(time - s.enough, 0).sum(axis=0)
        assert s.total[PEAK] == np.where(s.enough < 0, time.max(axis=0), beyond).sum()
        assert s.total[MOVES] == ((held > 0) & (s.held[OLD] == 0)).sum()
        if M == 1:
            assert s.total[AWAY] == (away * s.cost[NOW]).sum()

    def check_homes(self):
        """Strict homes hold all replicas, others one at least."""
        s = self.state
        if s.strict:
            assert not (s.held[HELD] * (s.expert[HOME] != -1)[:, None] * self._elsewhere).any()
        assert (s.expert[AT_HOME] >= 1).all()

    @property
    def _elsewhere(self):
        return self.state.expert[HOME][:, None] != self.gpu[NODE]


def random_layer(rng, samples=1, most_slots=4, strict=None):
    """Any layer: GPUs that differ, duplicates, homes of half of the experts, some of all old."""
    G = int(rng.integers(1, 6))
    slots = rng.integers(1, most_slots + 1, G)
    E = int(rng.integers(1, slots.sum() + 1))
    node = np.sort(rng.integers(0, 2, G))
    gpu = gpus(slots, rng.integers(1, 4, G) if rng.random() < 0.5 else None, node)
    spare = rng.integers(0, E, slots.sum() - E)
    placed = rng.permutation(np.concatenate([np.arange(E), spare]))
    strict = bool(rng.random() < 0.5) if strict is None else strict
    home = np.full(E, -1)
    for e in range(0, E, 2):
        nodes = node[np.repeat(np.arange(G), slots)[placed == e]]
        home[e] = nodes[0] if not strict or len(set(nodes)) == 1 else -1
    whole = rng.integers(0, int(rng.choice([5, 2**30])), (E, samples))
    return Layer(whole, gpu, placed, home, rng.random((E, G)) < 0.5, strict)


def random_swap(rng, layer):
    """Two GPUs and a slot of each, or None with one GPU."""
    G = layer.gpu.shape[1]
    if G == 1:
        return None
    m, k = (int(g) for g in rng.choice(G, 2, replace=False))
    return m, int(rng.integers(layer.gpu[SLOTS, m])), k, int(rng.integers(layer.gpu[SLOTS, k]))
