"""Loads written in our formats, window by window."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evenload import Trace
from evenload.io import FileFormatError, read_load, read_trace, write_load
from evenload.layers import ModelLayers

TRACE = np.random.default_rng(5).integers(0, 1000, (4, 3, 8)).astype(np.int32)
LAYERS = ModelLayers((1, 2, 5), 7)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
DTYPES = st.sampled_from([np.int32, np.int64, np.uint8, np.float32, np.float64])


@settings(deadline=None)
@given(st.data(), st.sampled_from([".npz", ".npy", ".csv"]))
def test_loads_come_back(tmp_path_factory, data, ending):
    dtype, shape = data.draw(DTYPES), data.draw(SHAPES)
    top = 2**53 if dtype is np.int64 else 255
    numbers = (
        st.floats(0, 2.0**90, width=32)
        if np.issubdtype(dtype, np.floating)
        else st.integers(0, top)
    )
    trace = data.draw(
        arrays(dtype, shape if ending != ".csv" else (1, *shape[1:]), elements=numbers)
    )
    path = tmp_path_factory.getbasetemp() / f"loads{ending}"
    assert write_load(path, Trace(trace)) == ()
    # A .npy file has no names: numbers that could be a mask or a placement are told to be loads.
    layout = "loads" if ending == ".npy" else None
    back = read_load(path, layout=layout).load
    np.testing.assert_array_equal(back, trace.astype(float).sum(axis=0))
    if ending != ".csv":
        array = np.load(path) if ending == ".npy" else np.load(path)["load"]
        np.testing.assert_array_equal(array, trace)
        assert array.dtype == dtype


def test_npz_keeps_the_models_layers(tmp_path):
    path = tmp_path / "x.npz"
    for layers in (LAYERS, ModelLayers((0, 3, 9)), None):
        assert write_load(path, Trace(TRACE, layers=layers)) == ()
        assert read_trace(path).layers == read_load(path).layers == layers
    np.savez_compressed(path, load=TRACE, layer_ids=[1, 2, 5], num_model_layers=7)
    assert read_trace(path).layers == LAYERS


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"layer_ids": [1, 2]}, "layers names 2 layers, and the load has 3; name 3"),
        ({"layer_ids": [1, 2, 2]}, "2 follows 2; use numbers that rise from 0"),
        ({"layer_ids": [1, 2, 5], "num_model_layers": 5}, "is too few for layer 5; use 6 or more"),
        ({"layer_ids": [0.5, 1, 2]}, "layer id=0.5 is not an integer"),
    ],
)
def test_layers_that_are_none(tmp_path, arrays, message):
    path = tmp_path / "x.npz"
    np.savez(path, load=TRACE, **arrays)
    with pytest.raises(ValueError, match=message):
        read_trace(path)


@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_what_has_no_place_is_said(tmp_path, ending):
    notes = write_load(tmp_path / f"x{ending}", Trace(TRACE[:1], layers=LAYERS))
    assert notes == (
        f"left out, since a {ending} file has no place for it: the model's layer numbers (1 to 5)",
    )


def test_csv_has_one_window(tmp_path):
    message = r"^a \.csv file has one window, and the trace has 4; take one with --window, or use a"
    with pytest.raises(ValueError, match=message):
        write_load(tmp_path / "x.csv", Trace(TRACE))
    assert list(tmp_path.iterdir()) == []


def test_parquet_in_long_form(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    assert len(write_load(path, Trace(TRACE, layers=LAYERS))) == 1
    table = parquet.read_table(path)
    assert table.column_names == ["window", "layer", "expert", "tokens"]
    rows = np.stack([table[name].to_numpy() for name in table.column_names], axis=1)
    expected = [
        [t, layer, e, TRACE[t, row, e]]
        for t in range(4)
        for row, layer in enumerate(LAYERS.ids)
        for e in range(8)
    ]
    assert rows.tolist() == expected
    assert parquet.ParquetFile(path).num_row_groups == 4


@pytest.mark.parametrize("ending", [".npz", ".npy", ".parquet"])
@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_numbers_that_are_no_tokens_are_not_written(tmp_path, ending, bad):
    trace = TRACE.astype(float)
    trace[2, 1, 3] = bad
    path = tmp_path / f"x{ending}"
    path.write_text("before")
    with pytest.raises(ValueError, match=r"^window 2: load\[1, 3\]=.* is not a finite number >= 0"):
        write_load(path, Trace(trace))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_gaps_are_kept(tmp_path):
    trace = TRACE * np.array([1, 0, 1, 1], np.int32)[:, None, None]
    write_load(tmp_path / "x.npz", Trace(trace))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["load"], trace)


class _Made:
    """Windows that are made when they are asked for, in order."""

    shape = (64, 16, 4096)

    def __init__(self):
        self.next = 0

    def read(self, number):
        assert number == self.next
        self.next += 1
        return np.full(self.shape[1:], number, np.int64)


@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_a_trace_is_written_window_by_window(tmp_path, ending):
    tracemalloc.start()
    write_load(tmp_path / f"x{ending}", Trace.of(_Made()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    window = 16 * 4096 * 8
    assert peak < 8 * window  # of 64
    assert read_trace(tmp_path / f"x{ending}").window(63).max() == 63


def test_the_same_loads_give_the_same_bytes(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    write_load(path, Trace(TRACE, layers=LAYERS))
    first = path.read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    write_load(path, Trace(TRACE, layers=LAYERS))
    assert path.read_bytes() == first


def test_endings_and_names(tmp_path):
    with pytest.raises(FileFormatError, match=r"not known as a load; use one of \.csv, \.npy"):
        write_load(tmp_path / "x.yaml", Trace(TRACE))
    with pytest.raises(FileFormatError, match=r"^format='sglang' is not known for a load to be w"):
        write_load(tmp_path / "x.npz", Trace(TRACE), format="sglang")
