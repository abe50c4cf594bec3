"""vLLM's routed experts, one request or many."""

import base64
import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_files import complains

from evenload.io import read_load, read_topk, read_trace

NAME = "vllm-routed-experts"
L, E, K = 3, 16, 2  # layer 0 is dense
RNG = np.random.default_rng(3)


def request(tokens):
    topk = np.argsort(RNG.random((tokens, L, E)), axis=2)[:, :, :K].astype(np.uint8)
    topk[:, 0] = 0
    return topk


REQUESTS = [request(n) for n in (5, 1, 9)]
REQUESTS[0][0, 1, 0] = E - 1


def packed(topk):
    out = io.BytesIO()
    np.save(out, topk)
    return base64.b64encode(out.getvalue()).decode()


def twin(topk):
    load = np.zeros((L - 1, E))
    for token in topk:
        for layer in range(1, L):
            for expert in token[layer]:
                load[layer - 1, expert] += 1
    return load


def lines(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def forms(topk):
    """Every way in which a line may have one request."""
    return [
        topk.tolist(),
        {"routed_experts": topk.tolist()},
        {"routed_experts": packed(topk)},
        {"id": "cmpl-1", "choices": [{"index": 0, "routed_experts": packed(topk)}]},
        {"outputs": [{"text": "", "routed_experts": topk.tolist()}]},
    ]


@pytest.mark.parametrize("form", range(5))
def test_lines(tmp_path, form):
    path = lines(tmp_path / "x.jsonl", *[forms(topk)[form] for topk in REQUESTS])
    trace = read_trace(path)
    for window, topk in zip(trace, REQUESTS, strict=True):
        np.testing.assert_array_equal(window, twin(topk))
    assert (trace.layers.ids, trace.layers.dense) == ((1, 2), (0,))
    assert trace.notes == (
        f"{path}: 1 of the model's 3 layers name expert 0 for every token and are left out as "
        "dense ones: 0",
        f"{path}: the number of experts is not in the file; taken as the largest expert number + 1 "
        "= 16 (say --experts, or num_experts=, where the model has more)",
    )
    assert read_load(path, num_experts=20).load.shape == (2, 20)


def test_choices_of_a_line_are_one_request(tmp_path):
    parts = [{"routed_experts": packed(topk)} for topk in REQUESTS]
    trace = read_trace(lines(tmp_path / "x.jsonl", {"choices": parts}))
    np.testing.assert_array_equal(list(trace), [sum(map(twin, REQUESTS))])


def test_requests_without_routing(tmp_path):
    path = lines(
        tmp_path / "x.jsonl",
        {"choices": [{"routed_experts": None}]},
        forms(REQUESTS[0])[0],
        {"routed_experts": packed(REQUESTS[0][:0])},
    )
    trace = read_trace(path, num_experts=E)
    assert trace.shape == (1, 2, E)
    assert trace.notes[1:] == (f"{path}: 2 of 3 requests have no routed experts and are left out",)


def test_one_array_needs_the_format_named(tmp_path):
    np.save(tmp_path / "x.npy", REQUESTS[0])
    assert read_trace(tmp_path / "x.npy").shape == (5, L, K)
    np.testing.assert_array_equal(
        read_load(tmp_path / "x.npy", format=NAME).load, twin(REQUESTS[0])
    )


def test_archives(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **{f"r{i}": topk for i, topk in enumerate(REQUESTS)})
    np.testing.assert_array_equal(
        list(read_trace(path, format=NAME)), [twin(topk) for topk in REQUESTS]
    )
    np.savez(path, routed_experts=REQUESTS[0])
    assert read_load(path).format == NAME


def test_folders_and_patterns(tmp_path):
    for number, topk in zip((2, 10, 11), REQUESTS, strict=True):
        np.save(tmp_path / f"request{number}.npy", topk)
    expected = [twin(topk) for topk in REQUESTS]
    for path in (tmp_path, tmp_path / "request*.npy"):
        trace = read_trace(path, format=NAME)
        np.testing.assert_array_equal(list(trace), expected)
    complains(tmp_path, "{path}: this is a folder; give a file")
    complains(
        tmp_path / "request*.npy",
        "{path}: files of format npy are read one at a time; give one, or name the format of a "
        "recording of several, route-log, sglang-recorder, vllm-routed-experts",
    )


def test_tokens_for_what_crosses_nodes(tmp_path):
    path = lines(tmp_path / "x.jsonl", *[forms(topk)[2] for topk in REQUESTS])
    np.testing.assert_array_equal(read_topk(path), np.concatenate(REQUESTS)[:, 1:])


def test_traces_go_to_other_processes(tmp_path):
    trace = read_trace(lines(tmp_path / "x.jsonl", *[forms(topk)[0] for topk in REQUESTS]))
    np.testing.assert_array_equal(list(pickle.loads(pickle.dumps(trace))), list(trace))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=4))
def test_equals_its_twin(tmp_path_factory, wanted):
    requests = [request(tokens) for tokens, _ in wanted]
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    lines(path, *[forms(r)[form] for r, (_, form) in zip(requests, wanted, strict=True)])
    expected = sum(twin(topk) for topk in requests)
    np.testing.assert_array_equal(read_load(path, num_experts=E).load, expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"choices": [{"text": "x"}]},
            "no key 'routed_experts', alone or in each of the choices or outputs; start the server "
            "with --enable-return-routed-experts",
        ),
        ({"routed_experts": 5}, "routed_experts is 5; use nested lists"),
        ({"routed_experts": "%%"}, "routed_experts is not base64 (Only base64 data is allowed)"),
        (
            {"routed_experts": "aGVsbG8="},
            "routed_experts: the array's header is cut off or damaged (EOF: reading magic string, "
            "expected 8 bytes got 5)",
        ),
        ([[1, 2]], "routed_experts has shape (1, 2); use [tokens, layers, k], and the same layers "
         "and k in all of a line"),
        ([[[1, 2], [3]]], "routed_experts[0][1] has shape [1], and routed_experts[0][0] has [2]; "
         "make all of one shape"),
        ([[[1, 16]]], "routed_experts has 16; use experts 0 to 15"),
        ([[[1, -2]]], "routed_experts has -2; use experts 0 to 15"),
        ([[[1, -1]]], "routed_experts[0, 0, 1]=-1 is not an expert, and others of its row are; "
                      "padding "
         "is -1 in the whole row"),
        ([[[-1, -1]]], "routed_experts is -1 throughout, which is padding; no token was routed"),
        ([[[0.5, 1]]], "routed_experts has dtype float64; use an integer dtype"),
    ],
)  # fmt: skip
def test_wrong_lines(tmp_path, value, message):
    path = lines(tmp_path / "x.jsonl", [[[1, 2]]], value)
    complains(path, "{path}, line 2: " + message, num_experts=16)


def test_other_complaints(tmp_path):
    path = lines(tmp_path / "x.jsonl", [[[1, 2]]], [[[1, 2], [3, 4]]])
    complains(
        path,
        "{path}, line 2: routed_experts has (2, 2) layers and experts per token, and that of "
        "{path}, "
        "line 1 has (1, 2); give requests of one model",
    )
    path.write_text("[[[1, 2]]]\n[[[1,")
    complains(
        path,
        "{path}, line 2: this is not JSON, or it is cut off (Expecting value: line 1 column 6 "
        "(char 5))",
    )
    path.write_text("\n\n")
    complains(path, "{path}: no request has routed experts in it")
    (tmp_path / "empty").mkdir()
    complains(
        tmp_path / "empty", "{path}: no .npy, .npz or .jsonl file in this folder", format=NAME
    )
    complains(
        lines(tmp_path / "x.txt", 1),
        "{path}: routed experts are read from .npy, .npz and .jsonl files; save them as one",
        format=NAME,
    )


def test_experts_past_any_model(tmp_path):
    complains(
        lines(tmp_path / "x.jsonl", [[[0, 2**40]]]),
        "{path}, line 1: routed_experts has 1099511627776; use experts 0 to 65535",
    )
