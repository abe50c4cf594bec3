"""Groups dealt out to nodes, against every order of them."""

import itertools

import numpy as np
import pytest

from evenload.core.deals import all_deals, deal_out


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("num_groups", "nodes"), [(2, 2), (4, 2), (6, 2), (6, 3), (5, 1), (4, 4)])
def test_groups_are_dealt_out_in_the_best_way_there_is(num_groups, nodes, equal):
    deals = all_deals(num_groups, nodes, equal)
    each = num_groups // nodes
    assert deals.sets.tolist() == [list(s) for s in itertools.combinations(range(num_groups), each)]
    kind = np.zeros(nodes, np.int64) if equal else np.arange(nodes)
    rng = np.random.default_rng(num_groups)
    orders = np.array(list(itertools.permutations(range(num_groups))))
    number = {tuple(s): x for x, s in enumerate(deals.sets.tolist())}
    contents = np.array(
        [
            [number[tuple(sorted(part))] for part in order.reshape(nodes, each).tolist()]
            for order in orders
        ]
    )
    for _ in range(10):
        time = rng.integers(0, 30, (kind.max() + 1, len(deals.sets))).astype(float)
        dealt, needed = np.full((2, nodes), -1), np.empty(2)
        deal_out(np.stack([time, 2 * time]), kind, deals.steps, num_groups, dealt, needed)
        for content, longest, layer in zip(dealt, needed, (time, 2 * time), strict=True):
            assert sorted(deals.sets[content].ravel().tolist()) == list(range(num_groups))
            assert layer[kind, content].max() == longest
            assert longest == layer[kind, contents].max(axis=1).min()


def test_too_many_sets_of_groups_are_not_listed():
    assert all_deals(12, 4, True) is not None
    assert all_deals(32, 4, True) is None
    assert all_deals(16, 8, True) is not None
    assert all_deals(16, 8, False) is None  # few sets, and many orders to deal them out in
