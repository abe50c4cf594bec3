"""Dumps of SGLang's recorder: what is read."""

import pickle
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import RNG, dump_passes, dump_stat, slot_maps

from evenload.io import FileFormatError, read_load, read_trace

pytest.importorskip("torch")
L, E, S = 3, 5, 8


def counts_of(maps, physical):
    """The obvious twin: add up slot by slot."""
    total = defaultdict(int)
    for layer, row in enumerate(maps):
        for slot, expert in enumerate(row):
            total[layer, int(expert)] += int(physical[layer][slot])
    return [[total[layer, e] for e in range(E)] for layer in range(L)]


@pytest.mark.parametrize("mode", ["per_pass", "per_token"])
def test_literal_files_of_each_rank(shared, mode):
    name = f"sglang_{mode}_expert_distribution_recorder_1700000000.0_0.pt"
    file = read_load(shared / "formats" / name)
    assert file.format == "sglang-recorder"
    assert file.load.tolist() == [[2, 2, 1, 1], [2, 1, 2, 1]]
    assert (file.layers.ids, file.layers.dense) == ((0, 1), ())


def test_literal_file_of_steps(shared):
    path = shared / "formats" / "sglang_stat_expert_distribution_recorder_1700000000.0.pt"
    assert read_load(path).load.tolist() == [[5] * 4] * 2
    assert read_trace(path).shape == (5, 2, 4)


def test_steps_without_unused_rows_and_dense_layers(tmp_path):
    counts = np.zeros((6, 4, E), int)
    counts[:4, 1:3] = RNG.integers(1, 9, (4, 2, E))
    path = dump_stat(tmp_path / "x.pt", counts)
    trace = read_trace(path)
    np.testing.assert_array_equal(list(trace), counts[:4, 1:3])
    assert trace.layers.ids == (1, 2)
    assert trace.layers.dense == (0, 3)
    assert trace.notes == (
        f"{path}: 2 of 6 rows are all zero and left out, as never written",
        f"{path}: 2 of the model's 4 layers never have a token and are left out as dense ones: "
        "0, 3",
    )


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ([0, 0, 1, 2, 0], [1, 2]),
        ([3, 4, 0, 0, 1, 2], [1, 2, 3, 4]),
        ([1, 0, 2, 0, 3], [1, 2, 3]),
        ([1, 2, 3], [1, 2, 3]),
    ],
)
def test_order_of_steps_in_the_ring(tmp_path, rows, order):
    counts = np.array(rows)[:, None, None] * np.ones((1, 2, E), int)
    trace = read_trace(dump_stat(tmp_path / "x.pt", counts))
    assert [int(window[0, 0]) for window in trace] == order


def test_one_load_of_steps_and_one_window(tmp_path):
    counts = RNG.integers(1, 9, (4, L, E))
    path = dump_stat(tmp_path / "x.pt", counts)
    np.testing.assert_array_equal(read_load(path).load, counts.sum(axis=0))
    np.testing.assert_array_equal(read_load(path, -1).load, counts[-1])
    np.testing.assert_array_equal(
        read_load(dump_stat(tmp_path / "y.pt", counts[0])).load, counts[0]
    )


def test_several_dumps_of_steps_go_by_their_time(tmp_path):
    for stamp, value in ((1700000010.5, 2), (1700000009.25, 1)):
        name = f"expert_distribution_recorder_{stamp}.pt"
        dump_stat(tmp_path / name, np.full((1, L, E), value))
    assert [int(w[0, 0]) for w in read_trace(tmp_path)] == [1, 2]


def test_passes_of_several_ranks(tmp_path):
    maps = slot_maps(L, S, E)
    passes = {rank: {n: RNG.integers(0, 9, (L, S)) for n in (9, 7, 10)} for rank in range(3)}
    for rank, counts in passes.items():
        dump_passes(
            tmp_path / f"expert_distribution_recorder_17.0_{rank}.pt",
            rank,
            counts,
            maps,
            tokens=4 if rank == 1 else None,
        )
    for path in (tmp_path, tmp_path / "*_17.0_*.pt"):
        trace = read_trace(path)
        for window, number in zip(trace, (7, 9, 10), strict=True):
            both = sum(passes[rank][number] for rank in passes)
            assert window.tolist() == counts_of(maps, both)
        assert trace.notes == (
            f"{path}: slots are taken for the experts of last_physical_to_logical_map, the last "
            "map; passes before a rebalance, if there was one while recording, are counted wrong",
        )


@given(st.data())
def test_passes_equal_their_twin(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("passes")
    maps = slot_maps(L, S, E, np.random.default_rng(data.draw(st.integers(0, 99))))
    number = data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(0, 2**31 - 1), min_size=L * S, max_size=L * S)
    expected = np.zeros((L, S), int)
    for rank in range(number):
        counts = np.array(data.draw(cells)).reshape(L, S)
        expected += counts
        dump_passes(folder / f"expert_distribution_recorder_1.0_{rank}.pt", rank, {3: counts}, maps)
    right = np.array(counts_of(maps, expected))
    kept = right.any(axis=1)
    if kept.any():
        file = read_load(folder)
        np.testing.assert_array_equal(file.load, right[kept])
        assert file.layers.ids == tuple(np.flatnonzero(kept))


def test_parts_of_a_pass_and_passes_that_a_rank_lacks(tmp_path):
    maps = np.tile(np.arange(S) % E, (L, 1))
    one = np.ones((L, S), int)
    dump_passes(tmp_path / "a.pt", 0, {1: one}, maps, key="child_a")
    dump_passes(tmp_path / "b.pt", 0, {1: one, 2: one}, maps, key="child_b")
    dump_passes(tmp_path / "c.pt", 1, {1: one, 3: 0 * one}, maps)
    trace = read_trace(tmp_path / "*.pt")
    assert [int(w.sum()) for w in trace] == [3 * L * S, L * S]
    assert trace.notes == (
        f"{tmp_path}/*.pt: 2 of 3 forward passes are not in the files of all 2 ranks (the first is "
        "2); they have the tokens of those that have them",
        f"{tmp_path}/*.pt: 1 of 3 forward passes have no token and are left out",
    )


def test_stages_of_a_pipeline_write_one_rank_number_each(tmp_path):
    """Their records of a pass have tokens in layers of their own, and are summed."""
    maps = np.tile(np.arange(S) % E, (L, 1))
    counts = RNG.integers(1, 9, (2, L, S))
    stages = counts.copy()
    stages[0, 1:] = stages[1, :1] = 0
    for stage, mine in enumerate(stages):
        name = f"expert_distribution_recorder_17.{stage}_0.pt"
        dump_passes(tmp_path / name, 0, {4: mine, 5: mine}, maps)
    trace = read_trace(tmp_path)
    expected = counts_of(maps, stages.sum(axis=0))
    assert [w.tolist() for w in trace] == [expected, expected]
    assert trace.notes == ()


def test_equal_stat_dumps_of_the_stages_count_once(tmp_path):
    counts = RNG.integers(1, 9, (3, L, E))
    first, again, other = (
        dump_stat(tmp_path / f"expert_distribution_recorder_17.{n}.pt", numbers)
        for n, numbers in enumerate((counts, counts, counts + 1))
    )
    trace = read_trace(tmp_path)
    assert [w.tolist() for w in trace] == [*counts.tolist(), *(counts + 1).tolist()]
    assert (
        f"{again}: the same numbers as in {first.name}, as each pipeline stage writes them; "
        "counted once"
    ) in trace.notes
    assert other.name not in "".join(trace.notes[1:2])


def test_stat_dumps_of_stages_with_layers_of_their_own_are_summed(tmp_path):
    counts = RNG.integers(1, 9, (2, 4, E))
    for time, recording in enumerate((counts, counts + 1)):
        for stage in range(2):
            part = np.zeros_like(recording)
            part[:, 2 * stage : 2 * stage + 2] = recording[:, 2 * stage : 2 * stage + 2]
            dump_stat(tmp_path / f"expert_distribution_recorder_{time}.{stage}.pt", part)
    trace = read_trace(tmp_path)
    assert [w.tolist() for w in trace] == [*counts.tolist(), *(counts + 1).tolist()]
    assert sum("the two are summed step by step" in note for note in trace.notes) == 2
    part[1] = 0
    dump_stat(tmp_path / "expert_distribution_recorder_1.1.pt", part)
    wrong = r"recorder_1.1.pt: it has other layers than \S*_1.0.pt, as a pipeline stage has, and"
    with pytest.raises(FileFormatError, match=wrong):
        read_load(tmp_path)


def test_one_file_is_one_rank(tmp_path):
    maps = np.tile(np.arange(S) % E, (L, 1))
    path = dump_passes(tmp_path / "x.pt", 3, {1: np.ones((L, S), int)}, maps)
    assert read_trace(path).notes == (
        f"{path}: this is what rank 3 counted; where there are more ranks, give the folder with "
        "all "
        "their files, or a pattern",
    )


@pytest.mark.parametrize("mode", ["stat", "passes"])
def test_traces_go_to_other_processes(tmp_path, mode):
    if mode == "stat":
        path = dump_stat(tmp_path / "x.pt", RNG.integers(1, 9, (3, L, E)))
    else:
        passes = {n: RNG.integers(1, 9, (L, S)) for n in range(3)}
        path = dump_passes(tmp_path / "x.pt", 0, passes, slot_maps(L, S, E))
    trace = read_trace(path)
    packed = pickle.dumps(trace)
    assert len(packed) < 10_000
    np.testing.assert_array_equal(list(pickle.loads(packed)), list(trace))


def test_counts_that_are_views(tmp_path):
    import torch

    counts = torch.arange(1, 1 + 2 * L * E, dtype=torch.int64).reshape(2, E, L).transpose(1, 2)
    torch.save({"logical_count": counts}, tmp_path / "x.pt")
    np.testing.assert_array_equal(list(read_trace(tmp_path / "x.pt")), counts.numpy())
