"""Parquet tables of loads."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_files import TRACE, complains

from evenload.io import FileFormatError, max_bytes, read_load, read_trace

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
T, L, E = TRACE.shape
NOTE = (
    "{path}: taken to have as many experts as the largest expert number + 1 = 8 (say --experts, or "
    "num_experts=, where the model has more)"
)


def long_rows(trace, windows=None, layers=None):
    w, layer, e = np.indices(trace.shape).reshape(3, -1)
    return {
        "window": np.asarray(windows)[w] if windows is not None else w,
        "layer": np.asarray(layers)[layer] if layers is not None else layer,
        "expert": e,
        "tokens": trace.ravel(),
    }


def wide_rows(trace, name="{}"):
    w, layer = np.indices(trace.shape[:2]).reshape(2, -1)
    experts = {name.format(e): trace[..., e].ravel() for e in range(trace.shape[2])}
    return {"window": w, "layer": layer, **experts}


def write(path, columns, order=None, **options):
    table = pa.table(columns)
    pq.write_table(table if order is None else table.take(order), path, **options)
    return path


@pytest.mark.parametrize("rows", [5, 24, 1000])
def test_long(tmp_path, rows):
    path = tmp_path / "x.parquet"
    write(path, long_rows(TRACE, [3, 5, 6, 7, 90], [3, 4, 9]), row_group_size=rows)
    trace = read_trace(path)
    np.testing.assert_array_equal(list(trace), TRACE)
    np.testing.assert_array_equal(trace.window(1), TRACE[1])
    assert trace.layers.ids == (3, 4, 9)
    assert trace.notes == (NOTE.format(path=path),)
    np.testing.assert_array_equal(list(pickle.loads(pickle.dumps(trace))), TRACE)
    assert read_load(path, num_experts=9).load.shape == (3, 9)


@pytest.mark.parametrize("name", ["{}", "expert_{}"])
def test_wide(tmp_path, name):
    path = write(tmp_path / "x.parquet", wide_rows(TRACE, name), row_group_size=4)
    trace = read_trace(path)
    np.testing.assert_array_equal(list(trace), TRACE)
    assert trace.notes == ()


@settings(max_examples=50)
@given(st.randoms(use_true_random=False), st.integers(5, 200), st.booleans())
def test_any_order_of_rows(tmp_path_factory, random, rows, long):
    columns = long_rows(TRACE) if long else wide_rows(TRACE)
    order = list(range(len(columns["layer"])))
    random.shuffle(order)
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    write(path, columns, order, row_group_size=rows)
    np.testing.assert_array_equal(list(read_trace(path)), TRACE)


def test_without_windows(tmp_path):
    columns = long_rows(TRACE[:1])
    del columns["window"]
    assert read_trace(write(tmp_path / "x.parquet", columns)).shape == (1, L, E)


def test_experts_without_rows_had_no_tokens(tmp_path):
    columns = long_rows(TRACE)
    kept = np.flatnonzero(columns["tokens"] % 2)
    path = write(tmp_path / "x.parquet", columns, kept)
    np.testing.assert_array_equal(list(read_trace(path, num_experts=E)), TRACE * (TRACE % 2))


def test_columns_that_are_not_read_are_told(tmp_path):
    path = write(tmp_path / "x.parquet", long_rows(TRACE) | {"host": ["a"] * TRACE.size})
    assert read_trace(path, num_experts=E).notes == (f"{path}: the column 'host' is not read",)


def test_missing_layer_and_doubled_rows(tmp_path):
    path = tmp_path / "x.parquet"
    columns = long_rows(TRACE)
    gone = (columns["window"] == 2) & (columns["layer"] == 1)
    write(path, columns, np.flatnonzero(~gone))
    complains(
        path,
        "{path}: window 2 has no row of layer 1, and others have; write every layer of every "
        "window",
        num_experts=E,
    )
    for order in ([*range(TRACE.size), TRACE.size - 1], [5, *range(TRACE.size)]):
        write(path, columns, order, row_group_size=7)
        with pytest.raises(FileFormatError, match=r"is there twice; write one row each$"):
            read_load(path)
    write(path, wide_rows(TRACE), [0, *range(T * L)])
    complains(path, "{path}: window 0, layer 0 is there twice; write one row each")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"a": [1], "b": [2]},
            "the columns are a, b; use layer, expert and tokens, or layer and one column an expert "
            "(0, 1, ... or expert_0, expert_1, ...), and window in front where there are several",
        ),
        (
            {"layer": [1], "0": [1], "2": [1]},
            "of the columns of experts 1 is missing or one is there twice; use one an expert, from "
            "0 without gaps",
        ),
        ({"layer": [0], "expert": [0], "tokens": ["x"]}, "column 'tokens' is of type string; use "
         "numbers"),
        ({"layer": [0.5], "expert": [0], "tokens": [1]}, "column 'layer' has 0.5, no whole "
         "number; use 0 to 65535"),
        ({"layer": [0], "expert": [-1], "tokens": [1]}, "column 'expert' has -1; use 0 to 65535"),
        ({"layer": [0], "expert": [2**40], "tokens": [1]}, f"column 'expert' has {2**40}; use 0 to "
         "65535"),
        ({"layer": [0, 1], "expert": [0, 0], "tokens": [1, None]}, "column 'tokens' has 1 empty "
         "cells in row group 0; write 0 where there are no tokens"),
        ({"layer": [], "expert": [], "tokens": []}, "column 'layer' is of type null; use numbers"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path, columns, message):
    complains(write(tmp_path / "x.parquet", columns), "{path}: " + message)


def test_other_complaints(tmp_path):
    path = tmp_path / "x.parquet"
    write(path, {name: values[:0] for name, values in long_rows(TRACE).items()})
    complains(path, "{path}: the table has no rows")
    write(path, long_rows(TRACE))
    complains(
        path,
        "{path}: column 'expert' has 7, and num_experts=4 was given; use 8 or more",
        num_experts=4,
    )
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FileFormatError, match="this is not a Parquet file, or it is cut off"):
        read_load(path)


def test_a_few_bytes_that_stand_for_a_billion_rows(tmp_path):
    """Repeated values pack to nothing; their number is looked at before they are unpacked."""
    rows = 2**20
    zeros = pa.array(np.zeros(rows, np.int8))
    path = write(
        tmp_path / "x.parquet",
        {"layer": zeros, "expert": zeros, "tokens": zeros},
        row_group_size=rows,
    )
    assert path.stat().st_size < 1_000_000
    with max_bytes(2**20):
        complains(
            path,
            f"{{path}}: row group 0, which smaller ones would make smaller, takes {rows * 24} "
            "bytes, more than the 1048576 that are held at once; where there is memory for it, "
            f"use --max-bytes {rows * 24} (evenload.io.max_bytes)",
        )
