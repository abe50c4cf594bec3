"""Loads by phase: in every file that tells prefill from decode, and as traces."""

import base64
import io
import json

import numpy as np
import pytest
from recordings import dump_passes, slot_maps

from evenload.io import FileFormatError, read_load, read_trace, write_load
from evenload.trace import Trace

RNG = np.random.default_rng(15)
PREFILL, DECODE = RNG.integers(100, 1000, (4, 2, 6)), RNG.integers(1, 50, (4, 2, 6))
DECODE[1] = 0  # a window of prompts alone
BOTH = {"prefill": PREFILL, "decode": DECODE}


def windows_of(trace):
    return np.stack([trace.read(t) for t in range(len(trace))])


def check(trace, phases=None):
    """Whole trace, each phase with its empty windows, and each without them."""
    phases = phases or BOTH
    assert list(trace.phases) == list(phases)
    np.testing.assert_array_equal(windows_of(trace), sum(phases.values()))
    for name, load in phases.items():
        np.testing.assert_array_equal(windows_of(trace.phases[name]), load)
        np.testing.assert_array_equal(windows_of(trace.phase(name)), load[load.any(axis=(1, 2))])


# ---- traces --------------------------------------------------------------------------------------


def test_a_trace_of_phases_is_their_sum():
    trace = Trace.of_phases(BOTH)
    check(trace)
    assert "phases prefill, decode" in repr(trace)
    assert trace.phase("decode").notes == (
        "1 of 4 windows have no token of the phase 'decode' and are left out",
    )
    merged = trace.merged(2)
    check(merged, {name: load[::2] + load[1::2] for name, load in BOTH.items()})


def test_a_name_for_each_window():
    load = np.stack([PREFILL, DECODE + 1], axis=1).reshape(8, 2, 6)
    trace = Trace(load).with_phase(["prefill", "decode"] * 4)
    np.testing.assert_array_equal(windows_of(trace), load)
    np.testing.assert_array_equal(windows_of(trace.phase("decode")), DECODE + 1)
    np.testing.assert_array_equal(trace.phases["decode"].read(0), 0)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({}, "phases is empty; give the trace of at least one"),
        ({"a": PREFILL, "b": PREFILL[:3]}, "phase 'b' has 3 windows, and phase 'a' 4; use phases"),
        ({"a": PREFILL, "b": PREFILL[:, :1]}, "phase 'b' has 1 layers, and phase 'a' 2; use"),
        ({"a": PREFILL, "b": PREFILL[..., :3]}, "phase 'b' has 3 experts, and phase 'a' 6; use"),
    ],
)
def test_phases_of_other_shapes_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        Trace.of_phases(phases)


def test_a_negative_number_does_not_hide_in_the_sum():
    trace = Trace.of_phases({"prefill": PREFILL, "decode": -np.ones(PREFILL.shape)})
    with pytest.raises(ValueError, match="is not a finite number >= 0"):
        trace.window(0)


def test_phases_that_are_not_there():
    with pytest.raises(ValueError, match="phase='x' is not in the trace, which has prefill and de"):
        Trace.of_phases(BOTH).phase("x")
    with pytest.raises(ValueError, match="phase='decode': the file does not tell phases apart"):
        Trace(PREFILL).phase("decode")
    with pytest.raises(ValueError, match="phase='b' has no token in any window"):
        Trace.of_phases({"a": PREFILL, "b": 0 * PREFILL}).phase("b")
    with pytest.raises(ValueError, match="phase has 1 names, and there are 4 windows"):
        Trace(PREFILL).with_phase(["decode"])


# ---- our own formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_written_and_read_again(tmp_path, name):
    path = tmp_path / name
    assert write_load(path, Trace.of_phases(BOTH)) == ()
    check(read_trace(path))
    file = read_load(path)
    assert list(file.phases) == ["prefill", "decode"]
    np.testing.assert_array_equal(file.phases["decode"], DECODE.sum(axis=0))
    np.testing.assert_array_equal(file.load, (PREFILL + DECODE).sum(axis=0))
    assert list(read_load(path, 1).phases) == ["prefill"]
    decode = read_load(path, phase="decode")
    np.testing.assert_array_equal(decode.load, DECODE.sum(axis=0))
    assert decode.num_windows == 3
    assert decode.phases == {}
    np.testing.assert_array_equal(read_trace(path, phase="decode").window(1), DECODE[2])


@pytest.mark.parametrize("name", ["x.npy", "x.csv"])
def test_formats_without_phases_say_so(tmp_path, name):
    trace = Trace.of_phases({key: load[:1] for key, load in BOTH.items()})
    assert write_load(tmp_path / name, trace) == (
        f"left out, since a .{name[2:]} file has no place for it: what phase tokens are of; "
        "prefill and decode are summed",
    )
    np.testing.assert_array_equal(read_load(tmp_path / name).load, PREFILL[0] + DECODE[0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_name_for_each_window(tmp_path, save):
    load = np.stack([PREFILL, DECODE + 1], axis=1).reshape(8, 2, 6)
    save(tmp_path / "x.npz", load=load, phase=np.array(["prefill", "decode"] * 4))
    trace = read_trace(tmp_path / "x.npz")
    np.testing.assert_array_equal(windows_of(trace), load)
    np.testing.assert_array_equal(windows_of(trace.phase("decode")), DECODE + 1)


def test_npz_with_a_name_for_each_token(tmp_path):
    topk = RNG.integers(0, 6, (9, 2, 3))
    phase = np.array(["prefill"] * 5 + ["decode"] * 4)
    np.savez(tmp_path / "x.npz", topk=topk, phase=phase, num_experts=6)
    file = read_load(tmp_path / "x.npz")
    assert file.load.sum() == topk.size
    assert file.phases["decode"].sum() == 4 * 6
    assert file.phases["decode"][1, 2] == (topk[5:, 1] == 2).sum()
    assert read_load(tmp_path / "x.npz", phase="prefill").load.sum() == 5 * 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"load": PREFILL, "phase": np.zeros(4)}, "key 'phase': the array has dtype float64; save"),
        ({"load": PREFILL, "phase": np.array(["x"] * 4)}, r"'phase': \[0\] is 'x'; use prefill or"),
        ({"load": PREFILL, "phase": np.array(["decode"])}, "phase has 1 names, and there are 4"),
        ({"topk": PREFILL, "phase": np.array(["decode"])}, "phase has 1 names, and topk 4 tokens"),
        ({"prefill": PREFILL, "decode": DECODE[:2]}, "phase 'decode' has 2 windows, and phase"),
        ({"load": PREFILL, "phase": np.array([None])}, "a pickle of Python objects"),
    ],
)
def test_bad_phases_in_an_archive(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FileFormatError, match=message):
        read_trace(tmp_path / "x.npz")


def test_one_phase_alone(tmp_path):
    np.savez(tmp_path / "x.npz", decode=DECODE + 1)
    trace = read_trace(tmp_path / "x.npz")
    check(trace, {"decode": DECODE + 1})


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["by window", "by phase"])
def test_a_table_with_a_phase_column(tmp_path, order):
    rows = [
        (t, name, i, e, load[t, i, e])
        for name, load in BOTH.items()
        for t, i, e in np.ndindex(load.shape)
        if load[t].any()
    ]
    rows.sort(key=lambda row: row[:1] if order == "by window" else 0)
    text = "window,phase,layer,expert,tokens\n" + "".join(
        f"{','.join(map(str, row))}\n" for row in rows
    )
    (tmp_path / "x.csv").write_text(text)
    check(read_trace(tmp_path / "x.csv"))
    wide = "window,phase,layer,0,1,2,3,4,5\n" + "".join(
        f"{t},{name},{i},{','.join(map(str, load[t, i]))}\n"
        for name, load in BOTH.items()
        for t, i in np.ndindex(4, 2)
        if load[t].any()
    )
    (tmp_path / "w.csv").write_text(wide)
    check(read_trace(tmp_path / "w.csv"))
    names = ("window", "phase", "layer", "expert", "tokens")
    records = [dict(zip(names, (*row[:4], int(row[4])), strict=True)) for row in rows]
    (tmp_path / "x.json").write_text(json.dumps(records))
    check(read_trace(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phase,layer,expert,tokens\nwarm,0,0,1\n", "line 2: column 'phase' has 'warm', which is"),
        ("phase,layer,expert,tokens\ndecode,0,0,1\n1,0,0,1\n", "line 3: column 'phase' has '1'"),
        ("phase,0,1\ndecode,3,4\n", "the columns are phase, 0, 1: none is the layer"),
        (
            "phase,layer,expert,tokens\ndecode,0,0,1\nprefill,0,0,1\nprefill,1,0,1\n",
            "window 0 has no row of layer 1, and others have",
        ),
        (
            "phase,layer,expert,tokens\ndecode,0,0,1\ndecode,0,0,1\n",
            "window 0, layer 0, expert 0 is there twice; write one row each",
        ),
    ],
)
def test_bad_phases_in_a_table(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_trace(tmp_path / "x.csv").phases["decode"].read(0)


def test_a_parquet_column_of_other_names(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"layer": [0, 0], "expert": [0, 1], "tokens": [5, 6]}
    for phase, message in (
        (["decode", "x"], "column 'phase' has 'x', which is not a phase"),
        (pa.array([b"x", b"y"]), "column 'phase' is of type binary; use prefill and decode"),
    ):
        pq.write_table(pa.table(columns | {"phase": phase}), tmp_path / "x.parquet")
        with pytest.raises(FileFormatError, match=message):
            read_trace(tmp_path / "x.parquet")
    names = pa.array(["decode", "Prefill"]).dictionary_encode()
    pq.write_table(pa.table(columns | {"phase": names}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_load(tmp_path / "x.parquet").phases["decode"], [[5, 0]])
    pq.write_table(pa.table(columns | {"phase": [0, 1]}), tmp_path / "x.parquet")
    trace = read_trace(tmp_path / "x.parquet")
    assert trace.phases == {}
    assert "the column 'phase' is not read" in trace.notes[0]


# ---- what engines record -------------------------------------------------------------------------


def dump_modes(folder, modes):
    """Dump per_token records of one rank for each list of modes, a pass for each mode."""
    folder.mkdir()
    slots, counts = slot_maps(2, 6, 6), []
    for rank, of_rank in enumerate(modes):
        counts.append(np.random.default_rng(rank).integers(1, 9, (len(of_rank), 2, 6)))
        path = folder / f"expert_distribution_recorder_1.0_{rank}.pt"
        dump_passes(path, rank, dict(enumerate(counts[-1])), slots, tokens=3, modes=of_rank)
    return [count[:, np.arange(2)[:, None], np.argsort(slots, axis=1)] for count in counts]


def test_sglang_per_token_passes_tell_their_phase(tmp_path):
    """Ranks may be in different phases in one pass; mixed batches are prefill."""
    first, second = dump_modes(tmp_path / "x", [[1, 2, 2, 3], [2, 2, 5, 8]])
    decodes = np.array([[0, 1, 1, 0], [1, 1, 1, 0]])[..., None, None]
    decode = first * decodes[0] + second * decodes[1]
    trace = read_trace(tmp_path / "x")
    check(trace, {"prefill": first + second - decode, "decode": decode})
    assert any("1 of 8 records are of mixed batches" in note for note in trace.notes)


def test_sglang_idle_ranks_are_of_no_phase(tmp_path):
    slots, counts = slot_maps(2, 6, 6), RNG.integers(1, 9, (2, 2, 6))
    for rank, (modes, of_rank) in enumerate((([1, 2], counts), ([4, 2], counts * [[[0]], [[1]]]))):
        path = tmp_path / f"expert_distribution_recorder_1.0_{rank}.pt"
        dump_passes(path, rank, dict(enumerate(of_rank)), slots, tokens=3, modes=modes)
    assert read_trace(tmp_path, phase="prefill").window(0).sum() == counts[0].sum()
    dump_passes(path, 1, dict(enumerate(counts)), slots, tokens=3, modes=modes)
    assert read_trace(tmp_path).phases == {}  # an idle rank has tokens


def test_sglang_passes_without_a_mode_have_no_phases(tmp_path):
    slots = slot_maps(2, 6, 6)
    dump_passes(tmp_path / "x.pt", 0, {0: RNG.integers(1, 9, (2, 6))}, slots)
    assert read_trace(tmp_path / "x.pt").phases == {}
    dump_modes(tmp_path / "y", [[1, 77]])
    assert read_trace(tmp_path / "y").phases == {}


def routed(tokens):
    return RNG.integers(1, 6, (tokens, 2, 3)).astype(np.int16)


def packed(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return base64.b64encode(stream.getvalue()).decode()


def test_vllm_requests_split_at_the_prompts_end(tmp_path):
    a, b, c, d = routed(7), routed(5), routed(9), routed(4)
    lines = [
        {"routed_experts": a.tolist(), "prompt_tokens": 3},
        {"choices": [{"routed_experts": packed(b), "prompt_token_ids": [5, 6]}]},
        # two tokens of a prompt of six are skipped: 4 rows of it and 5 of 6 generated tokens
        {
            "choices": [{"routed_experts": packed(c)}],
            "usage": {"prompt_tokens": 6, "completion_tokens": 6},
        },
        {"routed_experts": d.tolist(), "prompt_token_ids": [1, 2, 3, 4]},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = read_trace(tmp_path / "x.jsonl")
    expected = np.zeros((2, 4, 2, 6))
    for t, (topk, prompt) in enumerate(((a, 3), (b, 2), (c, 4), (d, 4))):
        for token, layer, k in np.ndindex(topk.shape):
            expected[int(token >= prompt), t, layer, topk[token, layer, k]] += 1
    check(trace, {"prefill": expected[0], "decode": expected[1]})
    np.savez(tmp_path / "x.npz", a=a, b=b, c=c, prompt_tokens=[3, 2, 4])
    trace = read_trace(tmp_path / "x.npz", format="vllm-routed-experts")
    check(trace, {"prefill": expected[0, :3], "decode": expected[1, :3]})


def test_vllm_requests_of_which_some_do_not_tell(tmp_path):
    lines = [
        {"routed_experts": routed(7).tolist(), "prompt_tokens": 3},
        {"routed_experts": routed(7).tolist(), "prompt_tokens": 8},  # more than there are
        {
            "choices": [{"routed_experts": packed(routed(3))} for _ in range(2)],
            "usage": {"prompt_tokens": 2},  # perhaps of two prompts
        },
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = read_trace(tmp_path / "x.jsonl")
    assert trace.phases == {}
    assert any("2 of 3 requests do not tell where their prompt ends" in n for n in trace.notes)
    np.savez(tmp_path / "x.npz", a=routed(3), prompt_tokens=[3, 2])
    with pytest.raises(FileFormatError, match=r"prompt_tokens has shape .* for each of the 1 requ"):
        read_trace(tmp_path / "x.npz", format="vllm-routed-experts")


def test_route_logs(tmp_path):
    topk = RNG.integers(0, 6, (2, 5, 2))
    lines = [{"type": "request", "req_id": "a", "prompt_tokens": 3}]
    for token, layer in np.ndindex(5, 2):
        line = {"layer": layer, "topk_ids": topk[layer, token].tolist(), "token_idx": token}
        lines.append(line | {"req_id": "a"})
        lines.append(line | {"req_id": "b", "prompt_tokens": 1})
        lines.append(line | {"req_id": "c", "phase": "decode"})
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = np.zeros((2, 3, 2, 6))
    for token, layer, k in np.ndindex(5, 2, 2):
        for window, prompt in enumerate((3, 1, 0)):
            expected[int(token >= prompt), window, layer, topk[layer, token, k]] += 1
    check(read_trace(path, num_experts=6), {"prefill": expected[0], "decode": expected[1]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    trace = read_trace(path, num_experts=6)
    assert trace.phases == {}
    assert any("some lines do not tell their phase" in note for note in trace.notes)
    for bad, message in (({"phase": "x"}, "'phase' has 'x'"), ({"prompt_tokens": -1}, "less than")):
        path.write_text(json.dumps(lines[1] | bad) + "\n")
        with pytest.raises(FileFormatError, match=message):
            read_trace(path)
