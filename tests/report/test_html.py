"""What notebooks show of plans and replays, and what they write."""

import inspect
import json
import re
import sys
import zlib
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evenload import Cluster, CostModel, Placement, solve
from evenload.extras import how_to_install
from evenload.io import read_placement_file
from evenload.replay import replay
from evenload.report.html import coloured, png
from evenload.solvers import get_solver, solver_names

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LOAD = np.random.default_rng(18).integers(1, 1000, (5, 3, 8))
COST = CostModel(1e6, 1e6, 1e9, 1e9)


@pytest.fixture(scope="module")
def plan():
    return solve(LOAD, Cluster(4, num_slots=12))


def pictures(html):
    """Return the pixels of each picture: [rows, columns, 3]."""
    found = []
    for code in re.findall(r"data:image/png;base64,([\w+/=]+)", html):
        data = b64decode(code)
        columns, rows = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
        at = data.index(b"IDAT")
        packed = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at])]
        lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(rows, 1 + 3 * columns)
        assert not lines[:, 0].any()
        found.append(lines[:, 1:].reshape(rows, columns, 3))
    return found


def test_a_plan_shows_figures_and_what_ran_before(plan) -> None:
    html = plan._repr_html_()
    assert "3 layers x 8 experts, 12 slots on 4 GPUs" in html
    assert "moves from trivial" in html
    before, after = pictures(html)
    assert before.shape == after.shape == (3, 4, 3)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 3
    later = solve(LOAD, Cluster(4, num_slots=12), current=plan.placement)
    assert "<th>current</th>" in later._repr_html_()


def test_dead_and_idle_gpus_have_colours() -> None:
    cluster = Cluster(3, num_slots=6, alive=[True, True, False])
    placement = Placement([[0, 1, 0, 1, -1, -1]], cluster, 2)
    plan = solve([[1, 1]], cluster)
    (_, shown) = pictures(replace(plan, placement=placement)._repr_html_())
    assert shown[0, 2].tolist() == [128, 128, 128]
    idle = solve(
        [[5, 0]], Cluster(2, num_slots=2), current=Placement([[0, 1]], Cluster(2, num_slots=2), 2)
    )
    blue, red = pictures(idle._repr_html_())[1][0].astype(int)[[1, 0]]
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_names_and_notes_are_escaped(plan) -> None:
    odd = replace(plan, solver="<b>", notes=("a < b",))
    html = odd._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<li>a &lt; b</li>" in html


def test_tensors_are_shown_too() -> None:
    torch = pytest.importorskip("torch")
    plan = solve(torch.from_numpy(LOAD[0]), Cluster(4, num_slots=12))
    assert len(pictures(plan._repr_html_())) == 2


def test_a_replay_shows_its_figures() -> None:
    course = replay(LOAD, Cluster(4, num_slots=12), "every-1", cost=COST)
    html = course._repr_html_()
    assert html.startswith("<div><p>every-1 over 4 windows")
    (shown,) = pictures(html)
    assert shown.shape == (3, 4, 3)
    dark = np.unravel_index(shown.sum(axis=2).argmin(), (3, 4))
    assert dark == np.unravel_index(course.balancedness.T.argmin(), (3, 4))


def test_colours_are_mixed_between_the_stops() -> None:
    shown = coloured(np.array([[0.0, 0.25, 1.0, np.nan]]), ["#000000", "#ffffff"])
    assert shown[0].tolist() == [[0] * 3, [64] * 3, [255] * 3, [128] * 3]
    assert png(shown).startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_what_is_saved_is_loaded(plan, tmp_path, ending) -> None:
    for what, solver in ((plan, plan.solver), (plan.placement, None)):
        path = tmp_path / f"p.{ending}"
        assert what.save(path) == ()
        assert Placement.load(path) == plan.placement
        assert read_placement_file(path).solver == solver


def test_a_file_that_does_not_say_its_gpus(plan, tmp_path) -> None:
    plan.save(tmp_path / "p.json", format="sglang")
    assert Placement.load(tmp_path / "p.json", num_gpus=4, num_experts=8) == plan.placement


def test_plots_are_drawn_and_saved(plan, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    course = replay(LOAD, Cluster(4, num_slots=12), "every-1", cost=COST, oracle=None)
    assert len(plan.plot().axes) == 3  # two maps and the colours
    assert plan.plot()._repr_png_().startswith(b"\x89PNG")
    assert course.plot(tmp_path / "r.svg").axes[0].get_xlabel() == "window"
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match=r"use one of \.png, \.svg, \.pdf"):
        plan.plot("plan.gif")


def test_plots_need_matplotlib(plan, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=re.escape(how_to_install("plot"))):
        plan.plot()


def test_solve_tells_of_every_option() -> None:
    told = inspect.getdoc(solve)
    own = set(inspect.signature(solve).parameters) - {"options"}
    for solver in solver_names():
        own |= set(list(inspect.signature(get_solver(solver)).parameters)[1:])
        assert f'"{solver}"' in told
    for name in own:
        assert re.search(rf"^{name} :|, {name} :|`{name}`", told, flags=re.MULTILINE), name


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path, tmp_path, monkeypatch) -> None:
    """The cells' code in order, as a kernel would run it; none is kept with its output."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
    assert "<table>" in names["course"]._repr_html_()
