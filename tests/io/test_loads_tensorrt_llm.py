"""TensorRT-LLM's expert statistics."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_files import complains
from recordings import RNG, dump_iterations

from evenload.io import FileFormatError, read_load, read_trace

safetensors_numpy = pytest.importorskip("safetensors.numpy")
E = 4


def ranks_of(number, iterations=(100, 9, 101), layers=(3, 11), low=0):
    keys = [(i, layer) for i in iterations for layer in layers]
    return [{key: RNG.integers(low, 9, E) for key in keys} for _ in range(number)]


def test_literal_folder(shared):
    file = read_load(shared / "formats" / "trtllm_expert_statistic")
    assert file.format == "tensorrt-llm-statistics"
    assert file.load.tolist() == [[8, 6, 4, 2]] * 2
    assert (file.layers.ids, file.num_windows, file.notes) == ((3, 4), 2, ())


@given(st.integers(1, 12), st.lists(st.integers(0, 200), min_size=1, max_size=4, unique=True))
def test_equals_its_twin(tmp_path_factory, number, iterations):
    ranks = ranks_of(number, iterations, low=1)
    trace = read_trace(dump_iterations(tmp_path_factory.mktemp("trtllm"), ranks, E))
    for window, i in zip(trace, sorted(iterations), strict=True):
        for row, layer in enumerate((3, 11)):
            for e in range(E):
                assert window[row, e] == sum(rank[i, layer][e] for rank in ranks)
    assert trace.layers.ids == (3, 11)


def test_traces_go_to_other_processes(tmp_path):
    trace = read_trace(dump_iterations(tmp_path / "x", ranks_of(2, low=1), E))
    np.testing.assert_array_equal(list(pickle.loads(pickle.dumps(trace))), list(trace))


def test_missing_rank(tmp_path):
    folder = dump_iterations(tmp_path / "x", ranks_of(11), E)
    (folder / "rank3.safetensors").unlink()
    complains(
        folder,
        "{path}: no rank3.safetensors, and there is rank10.safetensors; give the files of all "
        "ranks",
    )


def test_missing_iteration_or_layer(tmp_path):
    ranks = ranks_of(2, low=1)
    del ranks[1][9, 11]
    folder = dump_iterations(tmp_path / "x", ranks, E)
    trace = read_trace(folder)
    assert trace.notes == (
        f"{folder}: 1 of 2 ranks lack some iterations of their layers (rank 1); the sums are of "
        "the ranks that have them",
    )
    assert trace.window(0)[1].tolist() == ranks[0][9, 11].tolist()
    del ranks[0][9, 11]
    dump_iterations(folder, ranks, E)
    complains(
        folder,
        "{path}: iteration 9 has no layer 11 on any rank, and others have; give the files of all "
        "ranks, with whole iterations",
    )


def test_stages_of_a_pipeline(tmp_path):
    """Ranks are global there: each has the layers of its stage, an idle one none, and together
    they are complete but for the iteration that was running."""
    first = ranks_of(1, (9, 10), layers=(3, 4), low=1)
    second = ranks_of(2, (9, 10), layers=(11,), low=1)
    ranks = [*first, *second, {}]
    folder = dump_iterations(tmp_path / "x", ranks, E)
    trace = read_trace(folder)
    assert (trace.layers.ids, trace.notes) == ((3, 4, 11), ())
    for window, i in zip(trace, (9, 10), strict=True):
        assert window[:2].tolist() == [first[0][i, layer].tolist() for layer in (3, 4)]
        assert window[2].tolist() == (second[0][i, 11] + second[1][i, 11]).tolist()
    del first[0][10, 4]
    trace = read_trace(dump_iterations(folder, ranks, E))
    assert len(trace) == 1
    assert trace.notes == (f"{folder}: the last iteration, 10, has no layer 4 and is left out",)


@pytest.mark.parametrize(
    ("key", "counts", "message"),
    [
        ("9", np.zeros(E, int), "the key '9' is not an iteration and layer, as '100_3' would be"),
        (
            "-1_2",
            np.zeros(E, int),
            "the key '-1_2' is not an iteration and layer, as '100_3' would be",
        ),
        (
            "9_1",
            np.zeros(E + 1, int),
            "'9_1' is I64 of shape (5,); it has to be integers of shape (4,), one an expert",
        ),
        (
            "9_1",
            np.zeros(E),
            "'9_1' is F64 of shape (4,); it has to be integers of shape (4,), one an expert",
        ),
        (
            "9_1",
            np.array([1, -2, 0, 0]),
            "iteration 9 of layer 1 has -2 tokens; counts are 0 or more",
        ),
    ],
)
def test_wrong_counts(tmp_path, key, counts, message):
    folder = dump_iterations(tmp_path / "x", ranks_of(1), E)
    safetensors_numpy.save_file({key: counts}, folder / "rank0.safetensors")
    complains(folder, "{path}/rank0.safetensors: " + message)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "no key 'num_experts'"),
        ([4], "no key 'num_experts'"),
        ({"num_experts": 0}, "num_experts=0 is less than 1; use 1 or more"),
        ({"num_experts": 2**40}, "num_experts=1099511627776 is past 65536"),
    ],
)
def test_wrong_meta(tmp_path, meta, message):
    folder = dump_iterations(tmp_path / "x", ranks_of(1), E)
    (folder / "meta_info.json").write_text(json.dumps(meta))
    complains(folder, "{path}/meta_info.json: " + message)


def test_nothing_recorded(tmp_path):
    folder = dump_iterations(tmp_path / "x", [{}], E)
    complains(folder, "{path}: nothing is in the files of its ranks; nothing was recorded")
    (folder / "rank0.safetensors").unlink()
    complains(folder, "{path}: no rank*.safetensors in this folder; give the one that has them")
    complains(
        folder / "meta_info.json",
        "{path}: this is a file; give the folder with meta_info.json and rank*.safetensors",
        format="tensorrt-llm-statistics",
    )
    (folder / "meta_info.json").unlink()
    complains(
        folder,
        "{path}: no meta_info.json in this folder; give the one that has it",
        format="tensorrt-llm-statistics",
    )


@pytest.mark.parametrize("keep", [0, 4, 20, -8])
def test_cut_off(tmp_path, keep):
    folder = dump_iterations(tmp_path / "x", ranks_of(1), E)
    path = folder / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        FileFormatError, match=f"^{path}: this is not a .safetensors file, or it is "
    ):
        read_load(folder)
