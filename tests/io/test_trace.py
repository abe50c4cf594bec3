"""Loads over time: from memory and from files, windows checked as they are read."""

import copy
import pickle
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from evenload import Trace, read_trace
from evenload.io import FileFormatError

RNG = np.random.default_rng(3)
LOADS = RNG.integers(1, 1000, (7, 3, 8))

TRACES = npst.arrays(
    np.int64,
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5)),
    elements=st.integers(1, 2**40),
)


def complains(message, call, error=ValueError):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@given(TRACES)
def test_windows_are_those_of_the_array(loads: np.ndarray) -> None:
    trace = Trace(loads)
    assert (trace.num_windows, trace.num_layers, trace.num_experts) == loads.shape == trace.shape
    assert len(trace) == len(loads)
    assert np.array_equal(np.stack(list(trace)), loads)
    assert trace.window(0).dtype == np.float64


@given(TRACES, st.integers(1, 9))
def test_merged_windows_are_sums(loads: np.ndarray, count: int) -> None:
    trace = Trace(loads)
    if count > len(loads):
        with pytest.raises(ValueError, match=rf"^merge={count} is longer .* use {len(loads)}$"):
            trace.merged(count)
        return
    merged = trace.merged(count)
    whole = len(loads) // count
    expected = loads[: whole * count].reshape(whole, count, *loads.shape[1:]).sum(axis=1)
    assert np.array_equal(np.stack(list(merged)), expected)
    assert bool(merged.notes) == bool(len(loads) % count)


@given(TRACES, st.data())
def test_last_windows_end_before_the_given_one(loads: np.ndarray, data: st.DataObject) -> None:
    until = data.draw(st.integers(1, len(loads)))
    count = data.draw(st.integers(1, 12))
    assert np.array_equal(Trace(loads).last(count, until), loads[max(until - count, 0) : until])


def test_a_trace_never_changes() -> None:
    loads = LOADS.copy()
    trace = Trace(loads)
    loads[:] = 5
    trace.window(2)[:] = 9
    assert np.array_equal(trace.window(2), LOADS[2])


def test_a_memory_map_is_read_where_it_lies(tmp_path) -> None:
    np.save(tmp_path / "loads.npy", LOADS)
    trace = Trace(np.load(tmp_path / "loads.npy", mmap_mode="r"))
    assert np.array_equal(np.stack(list(trace)), LOADS)


def test_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    whole, windows = Trace(torch.tensor(LOADS)), Trace([torch.tensor(w) for w in LOADS])
    assert np.array_equal(whole.window(6), LOADS[6])
    assert np.array_equal(windows.window(6), LOADS[6])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i4", ">f8", "uint8"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_files_give_the_windows_in_any_order(tmp_path, kind, dtype, order) -> None:
    loads = np.array(LOADS % 200 + 1, dtype=dtype, order=order)
    path = tmp_path / ("a.npy" if kind == "npy" else "a.npz")
    if kind == "npy":
        np.save(path, loads)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, first=np.ones(9), load=loads)
    trace = read_trace(path)
    assert trace.source == str(path)
    for t in (0, 5, 2, 2, 6, 3, 0):
        assert np.array_equal(trace.window(t), loads[t])
    again = pickle.loads(pickle.dumps(trace))
    assert np.array_equal(np.stack(list(again)), loads)
    assert np.array_equal(copy.deepcopy(trace.merged(3)).window(1), loads[3:6].sum(axis=0))


def test_other_files_are_read_as_loads_are(tmp_path) -> None:
    (tmp_path / "one.csv").write_text("1,2,3\n4,5,6\n")
    assert read_trace(tmp_path / "one.csv").shape == (1, 2, 3)
    (tmp_path / "two.json").write_text("[[[1, 2]], [[3, 4]]]")
    assert read_trace(tmp_path / "two.json").window(1).tolist() == [[3, 4]]
    np.savez(tmp_path / "topk.npz", topk=np.array([[[0, 1]], [[1, 2]]]))
    routed = read_trace(tmp_path / "topk.npz")
    assert routed.window(0).tolist() == [[1, 2, 1]]
    assert "largest expert number" in routed.notes[0]
    np.save(tmp_path / "flat.npy", np.arange(1, 5))
    assert read_trace(tmp_path / "flat.npy", num_experts=4).shape == (1, 1, 4)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(tmp_path, save) -> None:
    peaks = []
    for windows in (20, 400):
        loads = np.ones((windows, 8, 64), np.int64)
        loads[:] = RNG.integers(1, 1000, (8, 64))
        save(tmp_path / "a.npz", load=loads)
        trace = read_trace(tmp_path / "a.npz")
        tracemalloc.start()
        assert sum(int(window.sum()) for window in trace) == loads.sum()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 20_000  # the bytes of 5 windows; the file has 400


def bad(value, where=(2, 1, 3)):
    loads = LOADS.astype(float)
    loads[where] = value
    return loads


GAP = bad(0.0, 4)
EMPTY_LAYER = bad(0.0, (4, 1))


@pytest.mark.parametrize(
    ("loads", "t", "message"),
    [
        (bad(np.nan), 2, "window 2: load[1, 3]=nan is not a finite number >= 0; use 0 or more"),
        (bad(np.inf), 2, "window 2: load[1, 3]=inf is not a finite number >= 0; use 0 or more"),
        (bad(-1.0), 2, "window 2: load[1, 3]=-1.0 is not a finite number >= 0; use 0 or more"),
        (GAP, 4, "window 4 is all zero, a gap in the recording; leave such windows out of the "
         "trace"),
        (EMPTY_LAYER, 4, "window 4: layer 1 is all zero, a gap in the recording or a layer without "
         "experts; leave it out of the trace"),
    ],
)  # fmt: skip
def test_a_bad_window_is_refused_when_it_is_read(tmp_path, loads, t, message) -> None:
    trace = Trace(loads)
    trace.window(t - 1)
    complains(message, lambda: trace.window(t))
    complains(message, lambda: list(trace.merged(2)))  # the recorded window is named
    np.savez_compressed(tmp_path / "a.npz", load=loads)
    complains(f"{tmp_path / 'a.npz'}: {message}", lambda: list(read_trace(tmp_path / "a.npz")))


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        (LOADS[0], "load has 2 dimensions (3, 8); use [windows, layers, experts]"),
        (LOADS[:0], "load has 0 windows (0, 3, 8); use at least 1"),
        (LOADS[:, :, :0], "load has 0 experts (7, 3, 0); use at least 1"),
        (LOADS > 5, "load has dtype bool; use an integer or floating dtype (tokens per expert)"),
        ([LOADS[0], LOADS[1, :, :5]], "load: the number of experts changes: window 1 has 5, and "
         "window 0 has 8; use windows of one model"),
        ([[[1, 2, 3]], [[1, 2]]], "load: the number of experts changes: window 1 has 2, and window "
         "0 has 3; use windows of one model"),
        ([LOADS[0], LOADS[1, :2]], "load: window 1 has shape (2, 8), and window 0 has (3, 8); use "
         "windows of one shape"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_refused(loads, message) -> None:
    complains(message, lambda: Trace(loads))


def test_numbers_out_of_range_are_refused() -> None:
    trace = Trace(LOADS)
    complains("window=7 is not in the trace, which has 7; use 0 to 6", lambda: trace.window(7))
    complains("window=-1 is less than 0; use 0 or more", lambda: trace.window(-1))
    complains("until=8 is past the trace, which has 7 windows; use 7", lambda: trace.last(1, 8))
    complains("count=0 is less than 1; use 1 or more", lambda: trace.last(0, 3))
    complains("merge=0 is less than 1; use 1 or more", lambda: trace.merged(0))


def test_damaged_files_are_told(tmp_path) -> None:
    path = tmp_path / "a.npz"
    # Bytes: whatever the damage makes of them are tokens, until the archive is found out.
    np.savez_compressed(path, load=RNG.integers(1, 256, (50, 8, 64), np.uint8))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(FileFormatError, match=r"a\.npz: the archive is cut off or damaged at win"):
        list(read_trace(path))
    np.save(tmp_path / "b.npy", LOADS)
    trace = read_trace(tmp_path / "b.npy")
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-8])
    with pytest.raises(FileFormatError, match=r"b\.npy: the file ends inside window 6"):
        trace.window(6)
    with pytest.raises(FileFormatError, match="the array is cut off"):
        read_trace(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", LOADS)
    with pytest.raises(FileFormatError, match="and num_experts=9 was given; use 8"):
        read_trace(tmp_path / "c.npy", num_experts=9)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "deepseek-v2-lite"])
def test_real_traces(shared, name) -> None:
    path = shared / "data" / f"{name}.npz"
    with np.load(path) as arrays:
        assert np.array_equal(np.stack(list(read_trace(path))), arrays["load"])
