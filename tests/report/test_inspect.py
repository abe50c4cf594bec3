"""What is said of loads and placements: figures beside slow ones, and what is odd."""

import json
import math

import numpy as np
import pytest
from command import fails, process, run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evenload import Cluster, Placement, Trace
from evenload.io import PlacementFile, write_placement, write_placement_file
from evenload.layers import ModelLayers
from evenload.report.inspect import inspect_loads, inspect_placement
from evenload.synth import synthetic_trace

RNG = np.random.default_rng(11)
CLUSTER = Cluster(4, 2, slots_per_gpu=3)
PLACEMENT = Placement(np.stack([np.r_[0:8, 0:4], np.r_[7, 2, 0:8, 1, 4]]), CLUSTER, 8)
LAYERS = ModelLayers((3, 5), 7)


def facts(array, layers=None):
    return inspect_loads(Trace(np.asarray(array), layers=layers), "x", "npz")


# ---- figures ---------------------------------------------------------------------------------


def slow_figures(trace):
    """Skew of the sum and of single windows, drift and chance of each layer; None without any."""
    T, L, E = trace.shape
    result = []
    for layer in range(L):
        total = [sum(int(trace[t, layer, e]) for t in range(T)) for e in range(E)]
        skew = max(total) * E / sum(total) if sum(total) else None
        single = [max(trace[t, layer]) * E / sum(trace[t, layer])
                  for t in range(T) if sum(trace[t, layer])]  # fmt: skip
        drift, chance = [], []
        for t in range(1, T):
            n, m = sum(trace[t, layer].tolist()), sum(trace[t - 1, layer].tolist())
            if not n or not m:
                continue
            p, q = trace[t, layer] / n, trace[t - 1, layer] / m
            drift.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
            both = (trace[t, layer] + trace[t - 1, layer]) / (n + m)
            spread = sum(math.sqrt(x * (1 - x) * (1 / n + 1 / m)) for x in both)
            chance.append(spread * math.sqrt(2 / math.pi) / 2)
        result.append([skew, *(np.mean(v) if v else None for v in (single, drift, chance))])
    return result


@settings(deadline=None)
@given(arrays(np.int64, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 9)))
def test_figures_are_what_they_say(trace):
    plain = facts(trace).plain
    columns = zip(*slow_figures(trace), strict=True)
    names = ("skew", "skew_in_one_window", "drift", "drift_by_chance")
    for name, column in zip(names, columns, strict=True):
        there = [value for value in column if value is not None]
        if not there:
            assert plain[name] is None
            continue
        assert plain[name]["mean"] == pytest.approx(np.mean(there))
        assert plain[name]["largest"] == pytest.approx(max(there))
        assert column[plain[name]["largest_layer"]] == pytest.approx(max(there))


def test_chance_alone_is_told_from_drift():
    """Windows of one distribution drift by chance; those of a moving one by more."""
    odds = RNG.dirichlet(np.ones(64))
    still = RNG.multinomial(4000, odds, (40, 2))
    plain = facts(still).plain
    assert plain["drift"]["mean"] == pytest.approx(plain["drift_by_chance"]["mean"], rel=0.03)
    moving = facts(synthetic_trace(40, num_layers=2, num_experts=64, seed=1)).plain
    assert moving["drift"]["mean"] > 1.2 * moving["drift_by_chance"]["mean"]


def test_tokens():
    trace = RNG.multinomial(40, np.full(8, 1 / 8), (3, 2))
    trace[1] *= 3
    tokens = facts(trace).plain["tokens_per_layer"]
    assert tokens == {
        "mean": 200 / 3, "smallest": 40.0, "smallest_window": 0, "largest": 120.0,
        "largest_window": 1, "multiple_of": 40,
    }  # fmt: skip


# ---- what is odd -----------------------------------------------------------------------------


def plainly(T=3, L=2, E=8, tokens=800):
    """Loads in which nothing is odd."""
    return RNG.multinomial(tokens, RNG.dirichlet(np.full(E, 9)), (T, L)).clip(1) // 1


def even(trace):
    """Give every layer of a window the same total."""
    most = trace.sum(axis=2).max(axis=1)
    trace[:, :, 0] += most[:, None] - trace.sum(axis=2)
    return trace


def test_nothing_odd():
    assert list(facts(even(plainly())).odd) == []


@pytest.mark.parametrize(
    ("place", "value", "odd"),
    [
        (np.s_[1], lambda x: 0, "1 window without a token: 1"),
        (np.s_[:, 0], lambda x: 0,
         "1 layer without a token in any window, as dense layers have: model layer 3"),
        (np.s_[2, 1], lambda x: 0,
         "model layer 5 has no token in window 2, where others have; 1 such gap"),
        (np.s_[:, 1, 3], lambda x: 0,
         "1 of 16 experts never get a token; the first is expert 3 of model layer 5"),
        (np.s_[1], lambda x: x[1] // 50 + 1,
         "1 window with more than 10 times or less than 1/10 of the tokens of the median one"),
        (np.s_[:, 1], lambda x: x[0, 0].sum() // 8,
         "all experts have the same load in some window of 1 layer"),
        (np.s_[2], lambda x: x[1], "1 window equal to the one before: 2"),
        (np.s_[:], lambda x: x.cumsum(axis=0),
         "no number is ever smaller than a window before: are these running totals?"),
    ],
)  # fmt: skip
def test_odd_loads(place, value, odd):
    trace = even(plainly())
    trace[place] = value(trace)
    assert odd in facts(trace, LAYERS).odd


def test_numbers_that_are_no_counts():
    found = facts(even(plainly()) / 3)
    assert "not all numbers are whole: these are not counts of tokens" in found.odd
    assert found.plain["drift_by_chance"] is None


def test_layers_that_differ():
    trace = even(plainly())
    trace[1, 0, 2] += 100
    assert facts(trace).odd == [
        "layers differ in tokens in 1 window, the first is 1; each token visits as many experts in "
        "every layer"
    ]


def test_nothing_at_all():
    assert facts(np.zeros((2, 2, 2))).odd == ["there is no token at all"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"^window 1: load\[0, 0\]=-1.0 is not a finite number >= 0; use 0 or more$"),
        (1e200, r"^window 1: load 1e\+200 is not a number of tokens; use 1e\+150 or less$"),
    ],
)
def test_numbers_that_are_none(bad, message):
    trace = np.ones((2, 1, 2))
    trace[1, 0, 0] = bad
    with pytest.raises(ValueError, match=message):
        facts(trace)


def placed(placement, layers=None, **how):
    return inspect_placement(PlacementFile(placement, "x", layers=layers), "evenload", **how)


def test_a_placement():
    found = placed(PLACEMENT, LAYERS)
    assert found.title == "x: a placement (evenload), 2 layers, 8 experts, 12 slots"
    rows = dict(found.rows)
    assert rows["cluster"] == "4 GPUs of 3 slots in 2 nodes"
    assert rows["model layers"] == "3, 5 of 7; without experts: 0, 1, 2, 4, 6"
    assert found.odd == [
        "1 of 2 layers hold the experts in order, as an engine starts and as dense layers are "
        "filled: model layer 3"
    ]
    assert found.plain["duplicates"] == [0, 0]


def test_odd_placements():
    twice = Placement([[0, 0, 1, 2], [2, 0, 1, 2]], Cluster(2, slots_per_gpu=2), 3)
    assert placed(twice).odd == [
        "1 slot wasted on an expert that its GPU has already; the first in layer 0"
    ]
    assert placed(twice, cluster_known=False).odd == []
    gone = Cluster(3, slots_per_gpu=2, speed=[1, 1, 2], alive=[True, False, True])
    found = placed(Placement([[2, 0, -1, -1, 1, 2]] * 2, gone, 3))
    assert found.odd == [
        "1 GPU gone (1): 2 slots hold nothing (-1)",
        "all layers are alike: was this planned for one load?",
    ]
    assert dict(found.rows)["cluster"] == "3 GPUs of 2 slots in 1 node, speeds 1 to 2"


# ---- the command -----------------------------------------------------------------------------


def test_a_real_trace(shared):
    result = run("inspect", shared / "data" / "gpt-oss-20b.npz")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].endswith("gpt-oss-20b.npz: loads (npz), 210 windows, 24 layers, 32 experts")
    words = ("routed tokens", "skew in one window", "drift by chance", "nothing odd was found")
    assert all(word in result.stdout for word in words)


def test_as_a_program_and_as_json(tmp_path):
    path = tmp_path / "trace.npz"
    np.savez(path, load=even(plainly()), layer_ids=[1, 4], num_model_layers=5)
    result = process("inspect", path, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    plain = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (plain["kind"], plain["format"], plain["num_windows"]) == ("loads", "npz", 3)
    assert plain["layers"] == {"ids": [1, 4], "num_model_layers": 5, "dense": [0, 2, 3]}
    assert "model layer" in process("inspect", path).stdout


def test_a_placement_without_its_gpus(tmp_path):
    path = tmp_path / "p.json"
    write_placement_file(path, PlacementFile(PLACEMENT), format="sglang")
    result = run("inspect", path)
    assert result.exit_code == 0
    assert "12 slots; the file does not say on how many GPUs (give --gpus)" in result.stdout
    assert json.loads(run("inspect", path, "--json").stdout)["cluster"] is None
    known = json.loads(run("inspect", path, "--json", "--gpus", 4, "--nodes", 2).stdout)
    assert known["cluster"] == {
        "num_gpus": 4, "num_nodes": 2, "slots_per_gpu": 3, "num_slots": 12
    }  # fmt: skip


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_our_own_placements_are_told_from_loads(tmp_path, ending):
    path = tmp_path / f"p{ending}"
    write_placement(path, PLACEMENT, solver="greedy", layers=ModelLayers((3, 5)))
    plain = json.loads(run("inspect", path, "--json").stdout)
    assert (plain["kind"], plain["solver"], plain["layers"]["ids"]) == (
        "placement",
        "greedy",
        [3, 5],
    )


def test_what_is_neither(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    why = "use load, or layers by number, or name one by --key (key=)"
    fails("inspect", path, error=f"{path}: no key is known as loads; found: a (int); {why}")
    path = tmp_path / "x.dat"
    path.write_text("x")
    result = run("inspect", path)
    assert result.exit_code == 2
    fails("inspect", tmp_path / "none", error=f"{tmp_path / 'none'}: no such file or directory")
