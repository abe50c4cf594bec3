"""Solvers by name: what is known, what an unknown name or option is answered, and third parties."""

import re
import sys

import numpy as np
import pytest

from evenload import Cluster, solve, solvers
from evenload.solvers import get_solver, solver_names

CLUSTER = Cluster(2, slots_per_gpu=3)
LOAD = [[9.0, 5.0, 3.0, 1.0]]

MINE = """
from evenload import Cluster, Placement


def mine(problem, *, backwards=False):
    rows = Placement.trivial(problem.num_layers, problem.num_experts, problem.cluster)
    rows = rows.physical_to_logical
    return Placement(rows[:, ::-1] if backwards else rows, problem.cluster, problem.num_experts)


def anything(problem, **options):
    return mine(problem, backwards=options["wish"] == "backwards")


def elsewhere(problem):
    cluster = Cluster(1, num_slots=problem.cluster.num_slots)
    return Placement.trivial(problem.num_layers, problem.num_experts, cluster)
"""


def fails(message, **options):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        solve(LOAD, CLUSTER, **options)


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a distribution that declares three solvers."""
    (tmp_path / "evenload_mine.py").write_text(MINE)
    info = tmp_path / "evenload_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evenload-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[evenload.solvers]\n"
        + "".join(f"{name} = evenload_mine:{name}\n" for name in ("mine", "anything", "elsewhere"))
    )
    monkeypatch.syspath_prepend(tmp_path)
    solvers._declared.cache_clear()
    yield
    sys.modules.pop("evenload_mine", None)
    solvers._declared.cache_clear()


def test_names():
    assert solver_names() == [
        "exact",
        "greedy",
        "incremental",
        "iterated-greedy",
        "joint",
        "local-search",
    ]
    for name in solver_names():
        assert callable(get_solver(name))


@pytest.mark.parametrize("name", ["gredy", "", "AUTO", "iterated_greedy", None, 3, ["greedy"]])
def test_an_unknown_name_is_answered_with_the_list(name):
    fails(
        f"solver={name!r} is unknown; use one of: auto, exact, greedy, incremental, "
        "iterated-greedy, joint, "
        "local-search",
        solver=name,
    )


def test_an_unknown_option_is_answered_with_the_list():
    fails(
        "solver 'local-search' has no option 'efort'; use one of: target, effort",
        solver="local-search",
        efort=3,
    )
    fails(
        "solver 'iterated-greedy' has no option 'effort'; use one of: num_attempts, boost, "
        "max_swaps, target",
        solver="iterated-greedy",
        effort=3,
    )
    fails("solver 'greedy' has no option 'target'; it has none", solver="greedy", target=0.9)


def test_options_of_auto_are_those_of_the_solver_it_picks():
    name = solve(LOAD, CLUSTER).solver
    with pytest.raises(ValueError, match=f"^solver '{name}' has no option 'wish'; use one of: "):
        solve(LOAD, CLUSTER, wish=1)


def test_options_reach_the_solver():
    load = np.random.default_rng(4).lognormal(3.0, 1.0, (20, 64))
    cluster = Cluster(8, slots_per_gpu=9)

    def reached(solver, **options):
        return solve(load, cluster, solver=solver, **options).balancedness.sum()

    assert reached("local-search", effort=0) < reached("local-search")
    assert reached("local-search", target=0.9) < reached("local-search")
    assert reached("iterated-greedy", num_attempts=1) < reached("iterated-greedy")
    assert reached("iterated-greedy", max_swaps=0) < reached("iterated-greedy")


def test_a_third_party_solver(third_party):
    plan = solve(LOAD, CLUSTER, solver="mine")
    assert plan.solver == "mine"
    assert plan.placement.physical_to_logical.tolist() == [[0, 1, 2, 3, 0, 1]]
    np.testing.assert_array_equal(plan.balancedness, plan.placement.balancedness(LOAD))
    plan = solve(LOAD, CLUSTER, solver="mine", backwards=True)
    assert plan.placement.physical_to_logical.tolist() == [[1, 0, 3, 2, 1, 0]]


def test_a_third_party_solver_is_listed(third_party):
    assert set(solver_names()) > {"mine", "greedy"}
    known = (
        "auto, anything, elsewhere, exact, greedy, incremental, iterated-greedy, joint, "
        "local-search, mine"
    )
    fails(f"solver='nine' is unknown; use one of: {known}", solver="nine")


def test_options_of_a_third_party_solver(third_party):
    fails("solver 'mine' has no option 'wish'; use one of: backwards", solver="mine", wish=1)
    plan = solve(LOAD, CLUSTER, solver="anything", wish="backwards")
    assert plan.placement.physical_to_logical.tolist() == [[1, 0, 3, 2, 1, 0]]


def test_a_third_party_solver_must_use_the_cluster(third_party):
    fails(
        "placement is on Cluster(num_gpus=1, num_nodes=1, slots_per_gpu=6), and the problem on "
        "Cluster(num_gpus=2, num_nodes=1, slots_per_gpu=3); use the same cluster",
        solver="elsewhere",
    )


def test_a_third_party_solver_is_gone_with_its_package():
    fails(
        "solver='mine' is unknown; use one of: auto, exact, greedy, incremental, "
        "iterated-greedy, joint, "
        "local-search",
        solver="mine",
    )


def declare(tmp_path, package, line):
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[evenload.solvers]\n{line}\n")
    solvers._declared.cache_clear()


def test_a_name_that_two_packages_declare_is_refused(third_party, tmp_path):
    declare(tmp_path, "evenload_other", "mine = evenload_mine:anything")
    fails(
        "solver='mine' is declared as evenload_mine:anything and as evenload_mine:mine; "
        "uninstall all but one of these packages",
        solver="mine",
    )


def test_no_package_replaces_a_solver_of_evenload(third_party, tmp_path):
    expected = solve(LOAD, CLUSTER, solver="greedy").placement
    declare(tmp_path, "evenload_mine", "greedy = evenload_mine:elsewhere")
    assert solver_names().count("greedy") == 1
    assert solve(LOAD, CLUSTER, solver="greedy").placement == expected


def test_solvers_of_evenload_need_no_look_at_what_is_installed(monkeypatch):
    monkeypatch.setattr(solvers, "entry_points", None)
    solvers._declared.cache_clear()
    for name in ("exact", "greedy", "incremental", "iterated-greedy", "joint", "local-search"):
        assert callable(get_solver(name))
