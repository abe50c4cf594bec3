"""Orders as nouns: the way there, the way back, and their file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenload.checkpoint import ExpertOrder, read_order
from evenload.checkpoint.order import ORDER_FILE, is_order
from evenload.cluster import Cluster
from evenload.io import FileFormatError, PlacementFile
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import Trace

LAYERS = ModelLayers([3, 4, 6])
ORDER = ExpertOrder([[2, 0, 1, 3], [0, 1, 2, 3], [3, 2, 1, 0]], LAYERS, 1, 2, "mixtral", "sha256:a")
LOAD = np.arange(12.0).reshape(3, 4)


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=4), st.randoms())
def test_loads_there_and_back(rows, random):
    order = ExpertOrder(rows, ModelLayers(range(len(rows))))
    load = np.array([[[random.random() for _ in range(6)] for _ in rows] for _ in range(2)])
    there = order.renumbered(load, None)
    for layer, row in enumerate(rows):
        for place, expert in enumerate(row):
            assert (there[:, layer, place] == load[:, layer, expert]).all()
    np.testing.assert_array_equal(order.inverse.renumbered(there, None), load)
    assert not order.then(order.inverse).changes
    np.testing.assert_array_equal(order.inverse.inverse.experts, order.experts)


def test_two_orders_in_a_row_are_one():
    second = ExpertOrder([[1, 0, 3, 2]] * 3, LAYERS)
    both = ORDER.then(second)
    twice = second.renumbered(ORDER.renumbered(LOAD, LAYERS), LAYERS)
    np.testing.assert_array_equal(both.renumbered(LOAD, LAYERS), twice)
    assert both.source_digest == "sha256:a"
    with pytest.raises(ValueError, match="two orders are of different layers"):
        ORDER.then(ExpertOrder([[0, 1, 2, 3]], ModelLayers([3])))


def test_which_layers_are_meant():
    assert ORDER.rows_of(2, None, 4).tolist() == ORDER.experts[:2].tolist()  # no draft's
    rows = ORDER.rows_of(3, ModelLayers([2, 4, 6]), 4)
    assert rows.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0]]
    with pytest.raises(ValueError, match="the order is of 4 experts, and there are 5"):
        ORDER.rows_of(3, None, 5)
    with pytest.raises(ValueError, match=r"of 3 layers \(model layers 3, 4, 6\), and there are 4"):
        ORDER.rows_of(4, None, 4)


def test_placements_reach_the_same_balance_on_the_same_loads():
    cluster = Cluster(2, slots_per_gpu=3)
    place = Placement([[0, 1, 2, 3, 0, 1], [0, 3, 2, 1, 2, 0], [3, 1, 2, 0, 3, 1]], cluster, 4)
    there = ORDER.renumbered_placement(PlacementFile(place, layers=LAYERS, load_digest="x"))
    assert there.load_digest is None
    load = LOAD + 1.0
    np.testing.assert_array_equal(
        there.placement.gpu_load(ORDER.renumbered(load, LAYERS)), place.gpu_load(load)
    )
    back = ORDER.inverse.renumbered_placement(there)
    assert back.placement == place


def test_a_gpu_that_is_gone_stays_so():
    cluster = Cluster(3, slots_per_gpu=2, alive=[True, False, True])
    place = Placement([[0, 1, -1, -1, 2, 3]] * 3, cluster, 4)
    there = ORDER.renumbered_placement(PlacementFile(place)).placement
    assert there.physical_to_logical[0].tolist() == [1, 2, -1, -1, 0, 3]


def test_a_trace_is_renumbered_window_by_window():
    trace = Trace(np.stack([LOAD + 1.0, LOAD + 2.0]), source="x", layers=LAYERS)
    there = ORDER.renumbered_trace(trace)
    assert (there.shape, there.source, there.layers) == (trace.shape, "x", LAYERS)
    np.testing.assert_array_equal(there.window(1), ORDER.renumbered(LOAD + 2.0, LAYERS))


def test_the_phases_of_a_trace_are_renumbered_too():
    parts = {"prefill": Trace([LOAD + 1.0, LOAD * 0.0]), "decode": Trace([LOAD, LOAD + 3.0])}
    there = ORDER.renumbered_trace(Trace.of_phases(parts, layers=LAYERS))
    np.testing.assert_array_equal(there.window(0), ORDER.renumbered(2.0 * LOAD + 1.0, LAYERS))
    for name, part in parts.items():
        expected = ORDER.renumbered(part.checked(0), LAYERS)
        np.testing.assert_array_equal(there.phases[name].checked(0), expected)
    assert len(there.phase("prefill")) == 1


def test_the_file_is_read_as_it_was_written(tmp_path):
    (tmp_path / ORDER_FILE).write_text(ORDER.to_json())
    for path in (tmp_path, tmp_path / ORDER_FILE):
        assert is_order(path)
        found = read_order(path)
        assert found.to_json() == ORDER.to_json()
        assert found.layers.ids == LAYERS.ids
    assert not is_order(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("{}")
    assert not is_order(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "x"}, 'no "format": "evenload.order"'),
        ({"version": 2}, "an order of experts of version 2"),
        ({"layer_ids": None}, "layer_ids is None"),
        ({"layer_ids": [3, 4]}, "layers names 2 layers, and experts has 3"),
        ({"layer_ids": [4, 3, 6]}, "3 follows 4"),
        ({"experts": [[0, 0, 1, 2]] * 3}, "experts of layer 3 are not 0 to 3, each once"),
        ({"experts": [[0.5, 1.0]] * 3}, "experts"),
        ({"experts": "x"}, "experts"),
        ({"experts": None}, "experts"),
        ({"source_digest": 3}, "source_digest is 3"),
        ({"num_gpus": "8"}, "num_gpus is '8'"),
        ({"num_drafts": -1}, "num_drafts is -1"),
    ],
)
def test_files_that_hold_no_order(tmp_path, change, match):
    path = tmp_path / ORDER_FILE
    path.write_text(json.dumps(json.loads(ORDER.to_json()) | change))
    with pytest.raises(FileFormatError, match=match) as refused:
        read_order(path)
    assert str(refused.value).startswith(str(path))


def test_orders_that_are_none():
    with pytest.raises(ValueError, match="use whole numbers"):
        ExpertOrder([0, 1], ModelLayers([0]))
    with pytest.raises(ValueError, match="is read-only"):
        ORDER.experts[0, 0] = 1
