"""Summaries, the table and the picture."""

import io
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.extras import how_to_install
from evenload.io import (
    LoadFile,
    PlacementFile,
    load_digest,
    read_placement_file,
    write_placement,
)
from evenload.report.compare import (
    Context,
    Summary,
    compare_file,
    compare_plan,
    file_lines,
    plan_lines,
    relief,
    report_to_plain,
)
from evenload.report.figures import check_plot_path, draw_heatmaps, save_figure
from evenload.report.tables import print_report
from evenload.report.text import percent_down, percent_up

CLUSTER = Cluster(2, slots_per_gpu=3)
LOAD = np.array([[6.0, 2.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
# Layer 0: GPU 0 has 6/3 + 2 + 6/3 = 6, GPU 1 has 3 + 1 + 6/3 = 6. Layer 1 has no load.
EVEN = Placement([[0, 1, 0, 2, 3, 0]] * 2, CLUSTER, 4)
TRIVIAL = Placement.trivial(2, 4, CLUSTER)
CONTEXT = Context("/some/where/loads.npz", 2, 4, CLUSTER, num_windows=7)


def two():
    return [
        Summary("trivial", TRIVIAL, LOAD),
        Summary("even", EVEN, LOAD, solver="mine", bound=np.ones(2), milliseconds=1.25),
    ]


def table(summaries=None, lines=("a [bold]line[/bold]",)):
    out = io.StringIO()
    print_report(CONTEXT.title(), summaries or two(), lines, out)
    return out.getvalue()


def test_summary_by_hand():
    # Trivial: slots 0 1 2 | 3 0 1, so GPU 0 has 3 + 1 + 3 = 7 and GPU 1 has 1 + 3 + 1 = 5.
    trivial, even = two()
    np.testing.assert_allclose(trivial.balancedness, [6 / 7, 1.0])
    np.testing.assert_allclose(trivial.relative_load, [[7 / 6, 5 / 6], [1.0, 1.0]])
    assert trivial.straggler_time == pytest.approx(7 / 6)
    assert (trivial.worst_layer, trivial.gap, trivial.moves.sum()) == (0, None, 0)
    heaviest, lightest = trivial.heaviest, trivial.lightest
    assert (heaviest.layer, heaviest.gpu, heaviest.tokens) == (0, 0, 7.0)
    assert (lightest.layer, lightest.gpu, lightest.tokens) == (0, 1, 5.0)
    assert even.straggler_time == 1.0
    assert even.duplicates.tolist() == [1, 1]
    # GPU 0 held 0 1 2 and has 0 1; GPU 1 held 3 0 1 and has 2 3 0.
    assert even.moves.tolist() == [1, 1]
    assert even.gap.tolist() == [0.0, 0.0]


@given(st.integers(0, 2**31), st.sampled_from([1, 3]), st.booleans())
def test_summary_agrees_with_the_placement(seed, num_layers, empty):
    rng = np.random.default_rng(seed)
    load = np.zeros((num_layers, 4)) if empty else rng.integers(0, 9, (num_layers, 4))
    slots = [rng.permutation([0, 1, 2, 3, *rng.integers(0, 4, 2)]) for _ in range(num_layers)]
    placement = Placement(np.array(slots), CLUSTER, 4)
    summary = Summary("x", placement, load)
    np.testing.assert_allclose(summary.relative_load.mean(axis=1), 1.0)
    np.testing.assert_allclose(1.0 / summary.relative_load.max(axis=1), summary.balancedness)
    assert summary.straggler_time >= 1.0 - 1e-12
    assert summary.heaviest.relative == summary.relative_load.max()


def test_table_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = table()
    assert text.startswith(
        "loads.npz (sum of 7 windows): 2 layers x 4 experts, 6 slots on 2 GPUs\n"
    )
    assert "a [bold]line[/bold]" in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    rows = {re.split(r"\s{2,}", line)[0]: line.split()[-1] for line in text.split("\n") if line}
    assert text.splitlines()[2].split() == ["trivial", "even"]
    assert rows["balancedness, mean"] == "1.00000"
    assert rows["bound, mean"] == "1.00000"
    assert rows["gap, mean"] == "0.00000"
    assert rows["duplicates"] == "2"
    assert re.search(r"straggler time +1\.16667 x ideal +1\.00000 x ideal", text)
    assert re.search(r"heaviest GPU +1\.1667 x mean +1\.0000 x mean\n +7 tokens +6 tokens", text)
    assert re.search(r"moves from trivial +0 +2\n +16\.7% of slots", text)
    assert re.search(r"planning time +- +1\.25 ms", text)


def test_balancedness_is_never_shown_better_than_it_is():
    cluster = Cluster(2, slots_per_gpu=1)
    load = [[1.0, 1.0 + 1e-7]]
    summaries = [Summary("x", Placement([[0, 1]], cluster, 2), load, bound=np.ones(1))]
    text = table(summaries)
    assert re.search(r"balancedness, mean +0\.99999\n", text)
    assert re.search(r"gap, mean +0\.00001\n", text)


def test_figures_that_should_be_small_are_rounded_up():
    assert [percent_up(x) for x in (0.0, 1e-9, 0.12345, 1.0)] == [
        "0.00%",
        "0.01%",
        "12.35%",
        "100.00%",
    ]
    assert [percent_down(x) for x in (0.0, 0.1499, 0.5)] == ["0.0%", "14.9%", "50.0%"]
    cluster = Cluster(2, slots_per_gpu=1)
    text = table([Summary("x", Placement([[0, 1]], cluster, 2), [[1.0, 1.0 + 1e-7]])])
    assert re.search(r"heaviest GPU +1\.0001 x mean\n", text)
    assert re.search(r"lightest GPU +0\.9999 x mean\n", text)


def spread_over_nodes(**traffic):
    # Nodes have experts 0 1 2 and 3 0 1: half of group 0 is away, and 1 of the 4 of group 1.
    placement = Placement.trivial(1, 4, Cluster(2, 2, slots_per_gpu=3))
    return Summary("x", placement, [[6.0, 2.0, 3.0, 1.0]], **traffic)


def test_what_crosses_nodes_has_rows_and_entries_of_its_own():
    topk = [[[0, 2]], [[2, 3]], [[0, 3]]]
    summary = spread_over_nodes(num_groups=2, topk=topk)
    text = table([summary])
    assert re.search(r"away from home +41\.67%\n", text)
    assert re.search(r"nodes per token +1\.334\n", text)
    plain = report_to_plain(CONTEXT, [summary])["placements"][0]
    assert plain["away_share"]["per_layer"] == pytest.approx([5 / 12])
    assert plain["away_share"]["mean"] == plain["away_share"]["per_layer"][0]
    assert plain["nodes_per_token"] == {"mean": 4 / 3, "per_layer": [4 / 3]}
    without = table([spread_over_nodes()])
    assert not re.search("home node|nodes for", without)


def test_groups_that_do_not_divide_are_refused_on_one_node_too():
    with pytest.raises(ValueError, match=r"^num_groups=3 does not divide num_experts=4"):
        Summary("x", TRIVIAL, LOAD, num_groups=3)


def test_a_live_split_may_exceed_the_bound_on_even_sharing():
    load = np.array([[5.0, 4.0, 3.0]])
    plan = solve(load, Cluster(2, slots_per_gpu=2))
    summary = compare_plan(load, plan, 1.0, split=True)[-1]
    # The hottest on both GPUs: 2.5 + 4 and 2.5 + 3, where 2 + 4 and 3 + 3 would be even.
    assert summary.balancedness[0] == pytest.approx(6 / 6.5)
    assert summary.bound is not None
    assert summary.balancedness[0] <= summary.bound[0] < 0.93
    assert summary.under["live"] == pytest.approx(1.0)
    line = "joint under other dispatches: live 0.99999, nearest 0.92307, static 0.92307."
    assert line in plan_lines([summary], plan)
    assert summary.to_plain()["under"]["live"] == pytest.approx(1.0)


def test_all_figures_are_under_the_dispatch():
    load, cluster = np.array([[5.0, 4.0, 3.0]]), Cluster(2, slots_per_gpu=2)
    plan = solve(load, cluster, dispatch="live", live_share=0.5)
    start, summary = compare_plan(load, plan, 1.0)
    for column in (start, summary):
        live = column.placement.gpu_load(load, dispatch="live")
        even = column.placement.gpu_load(load)
        np.testing.assert_allclose(column.gpu_load, (live + even) / 2, rtol=1e-12)
    np.testing.assert_array_equal(summary.balancedness, plan.balancedness)
    assert summary.straggler_time == plan.straggler_time
    plain = summary.to_plain()
    assert (plain["dispatch"], plain["live_share"]) == ("live", 0.5)
    assert list(plain["under"]) == ["even", "live", "nearest", "static"]
    assert "even 0." in plan_lines([start, summary], plan)[1]


def test_a_file_says_what_dispatch_it_is_for(tmp_path):
    write_placement(tmp_path / "p.json", EVEN, dispatch="live")
    given = read_placement_file(tmp_path / "p.json")
    assert given.dispatch == "live"
    summaries = compare_file(LOAD, given, sharing={"dispatch": "nearest"})
    assert "The placement was made for dispatch live." in file_lines(summaries, LOAD, given)
    nearest = EVEN.balancedness(LOAD, dispatch="nearest")
    np.testing.assert_array_equal(summaries[-1].balancedness, nearest)


def test_the_split_is_computed_only_when_asked_for(monkeypatch):
    """It is a maximum flow for each layer, which has to be compiled."""

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(Placement, "_best_split", never)
    load = np.array([[5.0, 4.0, 3.0]])
    columns = compare_plan(load, solve(load, Cluster(2, slots_per_gpu=2)), 1.0)
    plain = report_to_plain(CONTEXT, columns)["placements"][-1]
    assert list(plain["under"]) == ["even", "nearest", "static"]
    with pytest.raises(AssertionError):
        Summary("x", TRIVIAL, LOAD, split=True).to_plain()


# ---- GPUs that are gone ----------------------------------------------------------------------


def one_gone():
    cluster = Cluster(3, slots_per_gpu=3, alive=[True, False, True])
    return cluster, Summary("x", Placement.trivial(2, 4, cluster), LOAD)


def test_a_gpu_that_is_gone_is_neither_heaviest_nor_lightest():
    cluster, summary = one_gone()
    np.testing.assert_allclose(summary.relative_load[0], [7 / 6, np.nan, 5 / 6])
    assert (summary.heaviest.gpu, summary.lightest.gpu) == (0, 2)
    plain = report_to_plain(CONTEXT, [summary])
    assert json.loads(json.dumps(plain, allow_nan=False)) is not None
    context = Context("x.npz", 2, 4, cluster)
    assert context.title() == "x.npz: 2 layers x 4 experts, 9 slots on 3 GPUs (1 gone)"
    assert "nan" not in table([summary]).lower()


def test_a_gpu_that_is_gone_is_hatched():
    pytest.importorskip("matplotlib")
    _, summary = one_gone()
    figure = draw_heatmaps("x", [summary, summary])
    figure.savefig(io.BytesIO())
    left = figure.axes[0]
    assert left.patch.get_hatch()
    assert left.get_xlabel() == "GPU (hatched: gone)"
    assert np.ma.getmaskarray(left.images[0].get_array()).tolist() == [[False, True, False]] * 2
    whole = draw_heatmaps("x", two()).axes[0]
    assert whole.patch.get_hatch() is None
    assert whole.get_xlabel() == "GPU"


def test_figures_that_no_column_has_get_no_row():
    text = table(two()[:1])
    assert "duplicates" in text
    assert not re.search("planning time|bound, mean|gap, mean", text)


def test_relief():
    trivial, even = two()
    assert relief(trivial, even) == (
        "Every layer waits for its heaviest GPU; with even those have 14.2% less to do than with "
        "trivial."
    )
    assert "16.7% more to do" in relief(even, trivial)
    assert relief(even, even).startswith("The heaviest GPUs have as much to do")


def test_title_names_window_nodes_and_groups():
    file = LoadFile(LOAD, np.stack([LOAD, LOAD]), "a/b.npy", "npy", window=1)
    context = Context.of(file, Cluster(4, 2, slots_per_gpu=2), num_groups=2)
    assert context.title() == (
        "b.npy (window 1 of 2): 2 layers x 4 experts, 8 slots on 4 GPUs, 2 nodes, 2 groups"
    )


def test_placement_file_beside_the_trivial_one():
    given = PlacementFile(EVEN, "dir/p.json", "mine", load_digest(LOAD))
    summaries = compare_file(LOAD, given)
    assert [s.name for s in summaries] == ["trivial", "p.json"]
    assert file_lines(summaries, LOAD, given)[2] == "The placement was made for these very loads."
    assert file_lines(summaries, LOAD + 1, given)[2] == "The placement was made for other loads."
    message = (
        "dir/p.json places 2 layers x 4 experts, and the loads have 2 x 3; use a placement and "
        "loads of one model"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare_file(LOAD[:, :3], given)


def test_plain_numbers():
    plain = report_to_plain(CONTEXT, two())
    assert plain["load"]["num_windows"] == 7
    assert plain["cluster"] == {"num_gpus": 2, "num_nodes": 1, "slots_per_gpu": 3, "num_slots": 6}
    even = plain["placements"][-1]
    assert even["balancedness"] == {
        "mean": 1.0,
        "worst": 1.0,
        "worst_layer": 0,
        "per_layer": [1.0, 1.0],
    }
    assert even["moves_from_trivial"] == {"total": 2, "per_layer": [1, 1]}
    assert even["heaviest_gpu"] == {"layer": 0, "gpu": 0, "tokens": 6.0, "relative": 1.0}
    assert plain["placements"][0]["bound"] is None


# ---- the picture -----------------------------------------------------------------------------

START = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", START)
def test_picture_is_written_whole(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"x{suffix}"
    save_figure(path, draw_heatmaps("title", two()))
    assert path.read_bytes().startswith(START[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_picture_shows_what_it_says():
    pytest.importorskip("matplotlib")
    trivial, even = two()
    figure = draw_heatmaps("the title", [trivial, even], num_nodes=2)
    left, right, bar = figure.axes
    assert figure.get_suptitle() == "the title"
    assert (left.get_title(), right.get_title()) == ("trivial", "even")
    np.testing.assert_array_equal(left.images[0].get_array(), trivial.relative_load)
    assert left.images[0].norm is right.images[0].norm
    assert left.images[0].norm(1.0) == pytest.approx(0.5)
    assert "straggler time 1.167 x ideal" in left.texts[0].get_text()
    assert bar.get_ylabel() == "GPU load / mean of the layer"
    assert len(left.lines) == 1


def test_picture_of_empty_gpus():
    """A GPU without load has no logarithm; it takes the lowest colour."""
    pytest.importorskip("matplotlib")
    placement = Placement([[0, 1]], Cluster(2, slots_per_gpu=1), 2)
    figure = draw_heatmaps("x", [Summary("x", placement, [[0.0, 5.0]])])
    figure.savefig(io.BytesIO())
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (0.25, 4.0)
    assert norm(0.0) == 0.0


def test_picture_leaves_pyplot_alone():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    draw_heatmaps("x", two())
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(("name", "what"), [("x.gif", "the ending '.gif'"), ("x", "no ending")])
def test_picture_of_unknown_kind(name, what):
    message = f"{name}: pictures with {what} are not known; use one of .png, .svg, .pdf"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_plot_path(name)


def test_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "a picture needs matplotlib, which is not installed; use " + how_to_install("plot")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_plot_path("x.png")


def test_the_trivial_placement_is_bounded_as_one_that_keeps_no_groups() -> None:
    """A plan's bound may be on whole groups only, and the trivial placement splits them."""
    rng = np.random.default_rng(0)
    load, cluster = rng.lognormal(0.0, 1.2, (300, 8)), Cluster(4, 2, num_slots=12)
    plan = solve(load, cluster, num_groups=2)
    trivial, planned = compare_plan(load, plan, 1.0)
    assert (trivial.balancedness > plan.bound).any()
    for column in (trivial, planned):
        assert column.gap is not None
        assert column.gap.min() >= -1e-12
