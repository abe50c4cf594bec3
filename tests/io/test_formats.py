"""Load files: what is read."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_files import LOAD, RNG, TRACE, complains, save

from evenload.io import FORMATS, FileFormatError, read_load, read_topk


@pytest.mark.parametrize("ending", [".npz", ".npy", ".json", ".NPY", ".csv"])
def test_reads_a_load(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    save(tmp_path / f"x{ending.lower()}", LOAD).rename(path)
    file = read_load(path)
    np.testing.assert_array_equal(file.load, LOAD)
    assert file.load.dtype == np.float64
    assert file.trace is None
    assert (file.source, file.num_windows, file.window, file.notes) == (str(path), 1, None, ())


@pytest.mark.parametrize("ending", [".npz", ".npy", ".json"])
def test_sums_a_trace_over_its_windows(tmp_path, ending):
    file = read_load(save(tmp_path / f"x{ending}", TRACE))
    np.testing.assert_array_equal(file.load, LOAD)
    np.testing.assert_array_equal(list(file.trace), TRACE)
    assert file.num_windows == 5


@pytest.mark.parametrize(("window", "index"), [(0, 0), (4, 4), (-1, 4), (-5, 0)])
def test_takes_one_window(tmp_path, window, index):
    file = read_load(save(tmp_path / "x.npy", TRACE), window)
    np.testing.assert_array_equal(file.load, TRACE[index])
    assert file.window == index


@pytest.mark.parametrize(("window", "nearest"), [(5, 4), (-6, -5)])
def test_window_out_of_range(tmp_path, window, nearest):
    complains(
        save(tmp_path / "x.npy", TRACE),
        f"window={window} is not in {{path}}, which has 5 (0 to 4, or from the end -1 to -5); "
        f"use {nearest}",
        error=ValueError,
        window=window,
    )


def test_window_that_is_no_integer(tmp_path):
    complains(
        save(tmp_path / "x.npy", TRACE),
        "window=1.5 is not an integer; use 0 or more",
        error=ValueError,
        window=1.5,
    )


def test_one_layer_without_the_layer_axis(tmp_path):
    assert read_load(save(tmp_path / "x.npy", LOAD[0])).load.shape == (1, 8)


def test_load_wins_over_topk(tmp_path):
    np.savez(tmp_path / "x.npz", load=LOAD, topk=np.zeros((4, 3, 2), np.int64))
    np.testing.assert_array_equal(read_load(tmp_path / "x.npz").load, LOAD)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(3, 9))
def test_counts_topk(tmp_path_factory, tokens, layers, k, experts):
    topk = RNG.integers(0, experts, (tokens, layers, k)).astype(np.uint8)
    path = tmp_path_factory.getbasetemp() / "topk.npz"
    np.savez_compressed(path, topk=topk)
    expected = [[int((topk[:, i] == e).sum()) for e in range(experts)] for i in range(layers)]
    assert read_load(path, num_experts=experts).load.tolist() == expected


def test_topk_without_number_of_experts_says_what_it_took(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, topk=np.array([[[0, 4]]]))
    file = read_load(path)
    assert file.load.shape == (1, 5)
    assert file.notes == (
        f"{path}: the number of experts is not in the file; taken as the largest expert number + 1 "
        "= 5 (say --experts, or num_experts=, where the model has more)",
    )


def test_topk_with_number_of_experts_in_the_file(tmp_path):
    np.savez(tmp_path / "x.npz", topk=np.array([[[0, 4]]]), num_experts=8)
    file = read_load(tmp_path / "x.npz")
    assert (file.load.shape, file.notes) == ((1, 8), ())


@pytest.mark.parametrize(
    ("topk", "message"),
    [
        ([[[0, 8]]], "topk[0, 0, 1]=8 is not an expert; use 0 to 7"),
        ([[[-2, 1]]], "topk[0, 0, 0]=-2 is not an expert; use 0 to 7"),
        (
            [[[-1, 1]]],
            "topk[0, 0, 0]=-1 is not an expert, and others of its row are; padding is -1 in the "
            "whole "
            "row",
        ),
        ([[0, 1]], "topk has shape (1, 2); use [tokens, layers, k], at least 1 of each"),
        ([[[]]], "topk has shape (1, 1, 0); use [tokens, layers, k], at least 1 of each"),
        ([[[0.0, 1.0]]], "topk has dtype float64; use an integer dtype"),
    ],
)
def test_topk_that_is_none(tmp_path, topk, message):
    np.savez(tmp_path / "x.npz", topk=np.array(topk))
    complains(tmp_path / "x.npz", "{path}: " + message, num_experts=8)


def test_routed_experts_where_a_file_has_them(tmp_path):
    topk = np.array([[[0, 4]], [[1, 2]]], np.uint8)
    np.savez(tmp_path / "x.npz", load=LOAD, topk=topk)
    np.testing.assert_array_equal(read_topk(tmp_path / "x.npz"), topk)
    np.savez(tmp_path / "y.npz", load=LOAD)
    assert read_topk(tmp_path / "y.npz") is None
    assert read_topk(save(tmp_path / "x.csv", LOAD)) is None
    with pytest.raises(FileNotFoundError):
        read_topk(tmp_path / "none.npz")


@pytest.mark.parametrize("topk", [np.zeros((2, 2), int), np.zeros((2, 1, 2))])
def test_routed_experts_that_are_none_are_told_with_the_file(tmp_path, topk):
    path = tmp_path / "x.npz"
    np.savez(path, load=LOAD, topk=topk)
    with pytest.raises(FileFormatError, match=f"^{re.escape(str(path))}: topk has "):
        read_topk(path)


@pytest.mark.parametrize("key", ["load", "logical_count"])
def test_json_keys(tmp_path, key):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({key: LOAD.tolist(), "other": 1}))
    np.testing.assert_array_equal(read_load(path).load, LOAD)


def test_csv_header_byte_order_mark_and_empty_last_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\ufeffe0,e1,e2\r\n1,2.5,3\r\n4,5,6e2\r\n\r\n", encoding="utf-8")
    assert read_load(path).load.tolist() == [[1, 2.5, 3], [4, 5, 600]]


def test_csv_whose_first_row_looks_like_a_numbered_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("0,1,2\n5,6,7\n")
    file = read_load(path)
    assert file.load.tolist() == [[5, 6, 7]]
    assert file.notes == (
        f"{path}: the first row reads 0, 1, 2, ... and is taken as the numbers of the experts; if "
        "it is the load of a layer, --as loads (layout='loads')",
        f"{path}: the first line, 0, 1, 2, is taken as a header",
    )
    assert read_load(path, layout="loads").load.tolist() == [[0, 1, 2], [5, 6, 7]]


def test_reads_real_loads(shared):
    file = read_load(shared / "data" / "gpt-oss-20b.npz")
    assert (file.load.shape, file.num_windows) == ((24, 32), 210)
    counted = read_load(shared / "formats" / "sglang_init_logical_count.json")
    assert counted.load.tolist() == [[10, 5, 1, 0], [3, 3, 9, 1]]


def test_every_format_says_what_it_is():
    assert {f.name for f in FORMATS} >= {"npz", "npy", "csv", "json", "evenload"}
    for known in FORMATS:
        assert known.summary
        assert known.can
        assert all(marks for marks in known.told_by.values())
        for name in known.can:
            assert callable(known.function(name))


def test_what_is_told_by_content_is_asked_first_then_by_name():
    order = sorted(FORMATS, key=lambda f: (not f.told_by, f.name))
    assert list(FORMATS) == order
    assert len({f.name for f in FORMATS}) == len(FORMATS)
