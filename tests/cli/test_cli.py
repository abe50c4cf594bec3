"""The command line: what goes where, exit codes, and the words for what went wrong."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command import fails, process, run

import evenload
from evenload import Cluster, Placement, __version__
from evenload.cli import COMMANDS, output, parser_of
from evenload.io import read_placement, read_placement_file, write_placement
from evenload.traffic import nodes_per_token

DOCS = Path(__file__).resolve().parents[2] / "docs"
LOAD = np.random.default_rng(3).integers(1, 1000, (2, 3, 8))


@pytest.fixture
def loads(tmp_path):
    path = tmp_path / "loads.npz"
    np.savez(path, load=LOAD)
    return str(path)


# ---- plan ------------------------------------------------------------------------------------


def test_plan_survives_what_it_is_told_to(tmp_path, loads):
    out, cluster = tmp_path / "p.json", ("--gpus", 4, "--nodes", 2)
    result = run("plan", loads, *cluster, "--slots", 16, "--survive", "node", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert read_placement(out).survives("node")
    fewest = run("plan", loads, *cluster, "--redundant", "auto", "--survive", "gpu", "-o", out)
    assert fewest.exit_code == 0, fewest.stderr
    assert read_placement(out).survives("gpu")
    for options, message in (
        (("--slots", 12, "--survive", "gpu"), "num_slots=12 is too few"),
        (("--slots", 16, "--survive-count", 2), "--survive-count is for --survive"),
        (("--slots", 20, "--survive", "gpu", "--survive-count", 2), "use 24 or more"),
    ):
        result = run("plan", loads, *cluster, *options)
        assert result.exit_code == 2
        assert message in result.stderr


def test_plan_prints_a_table_and_writes_both_files(tmp_path, loads):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "p.json", tmp_path / "p.png"
    result = run("plan", loads, "--gpus", 4, "--slots", 12, "-o", out, "--plot", picture)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("loads.npz (sum of 2 windows): 3 layers x 8 experts, 12 slots")
    for word in ("balancedness", "straggler time", "moves from trivial", "planning time", "solver"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert f"wrote the placement to {out}" in result.stderr
    assert f"wrote the picture to {picture}" in result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert read_placement(out).cluster == Cluster(4, slots_per_gpu=3)


def test_plan_notes_what_groups_cost(tmp_path):
    np.savetxt(tmp_path / "loads.csv", [[36, 27, 18, 9, 4, 3, 2, 1]], fmt="%d", delimiter=",")
    cluster = ("--gpus", 4, "--nodes", 2, "--slots", 12, "--groups", 2)
    for extra, told in [((), True), (("--topology", "ignore"), False)]:
        result = run("plan", tmp_path / "loads.csv", *cluster, *extra)
        assert ("note: groups stay on one node each: mean balanced" in result.stdout) == told
        plain = json.loads(run("plan", tmp_path / "loads.csv", *cluster, *extra, "--json").stdout)
        assert len(plain["notes"]) == told


def test_plan_as_json_agrees_with_the_file_it_writes(tmp_path, loads):
    out = tmp_path / "p.json"
    args = ("--gpus", 4, "--nodes", 2, "--slots", 12, "--groups", 2, "--solver", "greedy")
    result = run("plan", loads, *args, "--json", "-o", out)
    assert result.exit_code == 0, result.stderr
    plain = json.loads(result.stdout)
    file = read_placement_file(out)
    assert plain["physical_to_logical"] == file.placement.physical_to_logical.tolist()
    assert plain["solver"] == file.solver == "greedy"
    assert plain["cluster"]["num_nodes"] == plain["num_groups"] == 2
    trivial, ours = plain["placements"]
    expected = file.placement.balancedness(LOAD.sum(axis=0))
    assert ours["balancedness"]["per_layer"] == expected.tolist()
    assert (trivial["name"], ours["name"]) == ("trivial", "greedy")
    assert ours["planning_ms"] > 0


def test_plan_of_one_window(loads):
    plain = json.loads(run("plan", loads, "--gpus", 2, "--window", -1, "--json").stdout)
    assert plain["load"]["window"] == 1
    placement = Placement(plain["physical_to_logical"], Cluster(2, slots_per_gpu=4), 8)
    expected = placement.balancedness(LOAD[1]).tolist()
    assert plain["placements"][-1]["balancedness"]["per_layer"] == expected


def test_slots_default_to_as_few_as_hold_all_experts(loads):
    result = run("plan", loads, "--gpus", 3, "--json")
    assert json.loads(result.stdout)["cluster"]["num_slots"] == 9
    assert (
        "note: no --slots: 9 for 8 experts; one more on each GPU for replicas of busy experts "
        "would be --slots 12\n"
    ) in result.stderr


def test_notes_of_the_reader_go_to_stderr(tmp_path):
    np.savez(tmp_path / "x.npz", topk=np.array([[[0, 1]], [[2, 3]]]))
    result = run("plan", tmp_path / "x.npz", "--gpus", 2, "--json")
    assert "taken as the largest expert number + 1 = 4" in result.stderr
    assert json.loads(result.stdout)["load"]["num_experts"] == 4
    result = run("plan", tmp_path / "x.npz", "--gpus", 2, "--experts", 6, "--json")
    assert json.loads(result.stdout)["load"]["num_experts"] == 6
    assert "taken as" not in result.stderr


def test_bad_numbers(loads):
    fails(
        *("plan", loads, "--gpus", 4, "--slots", 3),
        error="num_slots=3 is fewer than num_gpus=4, and every GPU has one at least; use 4",
    )
    fails(
        *("plan", loads, "--gpus", 4, "--nodes", 3, "--slots", 12),
        error="num_gpus=4 is not a multiple of num_nodes=3; use 3 or 6",
    )
    fails(*("plan", loads, "--gpus", 0), error="num_gpus=0 is less than 1; use 1 or more")
    fails(
        *("plan", loads, "--gpus", 4, "--slots", 4),
        error="num_slots=4 is fewer than num_experts=8, and every expert needs a slot; use 8 or "
        "more",
    )
    fails(
        *("plan", loads, "--gpus", 4, "--groups", 3),
        error="num_groups=3 does not divide num_experts=8; use 2 or 4",
    )


def test_slots_that_do_not_divide_need_a_solver_that_can(loads):
    result = run("plan", loads, "--gpus", 4, "--slots", 13, "--solver", "greedy")
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert re.match(r"error: cluster=.*slots=\(4, 3, 3, 3\).* plans for equal ones; use ", last)


def test_unknown_solver_is_answered_with_the_list(loads):
    result = run("plan", loads, "--gpus", 4, "--solver", "best")
    assert result.exit_code == 2
    assert re.search(r"^error: .*'best'.*greedy.*iterated-greedy", result.stderr, re.MULTILINE)


def test_bad_files(tmp_path, loads):
    missing = tmp_path / "none.npz"
    fails("plan", missing, "--gpus", 4, error=f"{missing}: no such file or directory")
    fails("plan", tmp_path, "--gpus", 4, error=f"{tmp_path}: this is a folder; give a file")
    fails(
        *("plan", loads, "--gpus", 4, "--window", 2),
        error=f"window=2 is not in {loads}, which has 2 (0 to 1, or from the end -1 to -2); use 1",
    )


def test_outputs_that_cannot_be_written(tmp_path, loads):
    before = sorted(tmp_path.iterdir())
    plan = ("plan", loads, "--gpus", 4)
    out = tmp_path / "none" / "p.json"
    none = tmp_path / "none"
    fails(*plan, "-o", out, error=f"{out}: the folder {none} does not exist; make it first")
    fails(
        *(*plan, "-o", "p.txt"),
        error="p.txt: a file with the ending '.txt' is not known as a placement; use one of .json, "
        ".npz, .pt, .yaml, .yml",
    )
    # The picture cannot work, so the placement is not written either.
    fails(
        *(*plan, "-o", tmp_path / "p.json", "--plot", "p.gif"),
        error="p.gif: pictures with the ending '.gif' are not known; use one of .png, .svg, .pdf",
    )
    assert sorted(tmp_path.iterdir()) == before


# ---- evaluate, demo, warmup ------------------------------------------------------------------


def test_evaluate(tmp_path, loads):
    path = tmp_path / "p.json"
    placement = Placement.trivial(3, 8, Cluster(4, slots_per_gpu=3))
    write_placement(path, placement, solver="mine", load=LOAD.sum(axis=0))
    result = run("evaluate", loads, path)
    assert result.exit_code == 0, result.stderr
    assert "The placement was made for these very loads.\n" in result.stdout
    plain = json.loads(run("evaluate", loads, path, "--window", 0, "--json").stdout)
    assert plain["solver"] == "mine"
    trivial, ours = plain["placements"]
    assert ours["balancedness"] == trivial["balancedness"]
    assert ours["balancedness"]["per_layer"] == placement.balancedness(LOAD[0]).tolist()


@pytest.mark.parametrize(
    ("cluster", "keys"),
    [
        (Cluster(4, num_slots=13), {"slots": [4, 3, 3, 3], "num_slots": 13}),
        (
            Cluster(4, slots_per_gpu=4, speed=[1, 2, 1, 1], alive=[True, True, True, False]),
            {"slots_per_gpu": 4, "speed": [1, 2, 1, 1], "alive": [True, True, True, False]},
        ),
    ],
)
def test_evaluate_gpus_that_differ(tmp_path, loads, cluster, keys):
    path = tmp_path / "p.json"
    placement = Placement.trivial(3, 8, cluster)
    write_placement(path, placement)
    assert f"{cluster.num_slots} slots on 4 GPUs" in run("evaluate", loads, path).stdout
    plain = json.loads(run("evaluate", loads, path, "--json").stdout, parse_constant=pytest.fail)
    assert plain["cluster"].items() >= keys.items()
    expected = placement.balancedness(LOAD.sum(axis=0)).tolist()
    assert plain["placements"][-1]["balancedness"]["per_layer"] == expected
    gpu_load = placement.gpu_load(LOAD.sum(axis=0))
    heaviest = plain["placements"][-1]["heaviest_gpu"]
    assert heaviest["tokens"] == gpu_load[heaviest["layer"], heaviest["gpu"]] > 0


def test_evaluate_tells_what_crosses_nodes(tmp_path):
    topk = np.random.default_rng(0).integers(0, 8, (64, 2, 2))
    loads, path = tmp_path / "x.npz", tmp_path / "p.json"
    np.savez(loads, topk=topk, num_experts=8)
    placement = Placement.trivial(2, 8, Cluster(4, 2, slots_per_gpu=3))
    write_placement(path, placement)
    result = run("evaluate", loads, path, "--groups", 2)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^away from home +\d+\.\d\d%", result.stdout, re.MULTILINE)
    assert re.search(r"^nodes per token +1\.\d{3}", result.stdout, re.MULTILINE)
    plain = json.loads(run("evaluate", loads, path, "--groups", 2, "--json").stdout)
    ours = plain["placements"][-1]
    assert plain["num_groups"] == 2
    assert ours["nodes_per_token"]["per_layer"] == nodes_per_token(placement, topk).tolist()
    fails(
        *("evaluate", loads, path, "--groups", 3),
        error="num_groups=3 does not divide num_experts=8; use 2 or 4",
    )


def test_routed_experts_are_not_taken_for_those_of_one_window(tmp_path):
    loads = tmp_path / "x.npz"
    np.savez(loads, load=LOAD, topk=np.zeros((4, 3, 2), int))
    options = ("--gpus", 4, "--nodes", 2, "--slots", 12, "--json")
    of_all = json.loads(run("plan", loads, *options).stdout)["placements"][-1]
    assert of_all["nodes_per_token"]["per_layer"] == [1, 1, 1]
    of_one = json.loads(run("plan", loads, *options, "--window", 0).stdout)["placements"][-1]
    assert of_one["nodes_per_token"] is None


def test_evaluate_a_placement_that_does_not_fit(tmp_path, loads):
    path = tmp_path / "p.json"
    write_placement(path, Placement.trivial(3, 6, Cluster(4, slots_per_gpu=3)))
    fails(
        *("evaluate", loads, path),
        error=f"{path} places 3 layers x 6 experts, and the loads have 3 x 8; use a placement and "
        "loads of one model",
    )


@pytest.fixture
def small_demo(monkeypatch):
    """Let the demo replay fewer layers and windows, on fewer GPUs."""
    for name, few in (("WINDOWS", 3), ("LAYERS", 2), ("CLUSTERS", ((32, 4, 9), (64, 8, 5)))):
        monkeypatch.setattr(f"evenload.cli.demo._{name}", few)


@pytest.mark.usefixtures("small_demo")
def test_demo(tmp_path):
    pytest.importorskip("matplotlib")
    picture, trace = tmp_path / "demo.svg", tmp_path / "made up.npz"
    result = run("demo", "--seed", 5, "--plot", picture, "--save-trace", trace)
    assert result.exit_code == 0, result.stderr
    first, theirs, even, live, wide = result.stdout.splitlines()
    assert first.startswith("Traffic drifts over 3 windows, and each of 2 layers waits for its ")
    for line, words in ((theirs, "DeepSeek's planner"), (even, "evenload, which"),
                        (live, "evenload with a live"), (wide, "Wide, 64 GPUs, 5 sl")):  # fmt: skip
        assert line.startswith(words)
        assert " moves" in line
    assert "No GPU is used." in result.stderr
    assert f"Next: evenload replay '{trace}' --gpus 32 " in result.stderr
    assert "kernels ready in" in result.stderr
    assert picture.stat().st_size > 1000
    assert "4 windows, 2 layers, 256 experts" in run("inspect", trace).stdout


@pytest.mark.usefixtures("small_demo")
def test_demo_shows_all_figures_where_they_are_asked_for():
    result = run("demo", "--verbose")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("straggler") == 4  # a table for each dispatch on each cluster
    plain = run("demo")
    assert result.stdout.splitlines()[-5:] == plain.stdout.splitlines()
    assert (
        "Next: evenload demo --save-trace demo.npz, then evenload replay demo.npz " in plain.stderr
    )


@pytest.mark.usefixtures("small_demo")
def test_demo_as_json_depends_on_the_seed_only():
    def figures(seed):
        panels = json.loads(run("demo", "--seed", seed, "--json").stdout)["replays"]
        few = panels["32 GPUs, 9 slots per GPU"]
        names = [(of["policy"], of["dispatch"]) for of in few]
        assert names == [("never", "even"), ("deepseek", "even"), ("deepseek", "live"),
                         ("evenload", "even"), ("evenload", "live")]  # fmt: skip
        return [(of["balancedness"], of["moves"], of["total_seconds"]) for of in few]

    never, *others = figures(1)
    assert all(of[0] > never[0] and of[2] < never[2] for of in others)
    assert figures(1) == [never, *others]
    assert figures(2) != [never, *others]


def test_warmup():
    result = run("warmup")
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(r"all kernels ready in \d+\.\d\d s\n", result.stdout)


# ---- the program -----------------------------------------------------------------------------


def test_version_and_no_arguments():
    for option in ("-V", "--version"):
        assert run(option).stdout == f"evenload {__version__}\n"
    assert run().exit_code == 2


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_has_an_example_and_shows_no_internals(command):
    told = run(*command.split(), "--help").stdout
    (examples,) = re.findall(r"^Examples:\n((?:  .*\n)+)", told, flags=re.MULTILINE)
    assert f"evenload {command}".strip() in examples
    assert not re.search(r"[<{]\w+|\bNone\b|\[\w+\[", told)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_usage_errors():
    for given, message in (
        (("--bogus",), "--bogus is not an option; see evenload --help"),
        (("--json", "plan", "x.npz"), "--json is before the command; use evenload plan --json; "),
        (("plan", "x.npz", "--gpus", 4, "--live-share", "x"), "'x' is not a number; use e.g. 0.5"),
        (("plan", "x.npz"), "error: missing --gpus; see evenload plan -"),
        (("plan", "--gpus", 4), "error: missing LOADS; see evenload plan"),
        (("plan", "x.npz", "--gpus", "many"), "--gpus: 'many' is not a whole number; use"),
        (
            ("plan", "x.npz", "--GPUs=4"),
            "--GPUs is not an option; use --gpus; see evenload plan --",
        ),
        (("plan", "x.npz", "-gpus", 4), "-gpus is not an option; use --gpus; see evenload plan --"),
        (("evaluate", "--solver", "joint"), "--solver is not an option; see evenload evaluate --h"),
        (("plan", "-m", "x.npz"), "-m is not an option; see evenload plan --help"),
        (("plan", "x.npz", "--gpus", 4, "-o", "--json"), "-o needs a value; see"),
        (("warmup", "--", "--now"), "-- --now is unknown; see evenload warmup --help"),
        (("plan", "x.npz", "--gpus", 4, "--slot", 8), "--slot is not an option; use --slots; see"),
        (("plan", "x.npz", "--gpus"), "error: --gpus needs a value; see"),
        (("plan", "x.npz", "--json=1"), "error: --json takes no value; leave '1' out; see"),
        (("unknown",), "'unknown' is not a command; use one of: plan, evaluate, convert"),
        (("plann",), "'plann' is not a command; use plan; see evenload --help"),
    ):
        result = run(*given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_is_named_before_what_is_missing(command):
    known = parser_of(command)._option_string_actions
    for option in known:
        typed = option[:-1]
        if option.startswith("--") and typed not in known:
            said = run(command, typed, 8).stderr.splitlines()[-1]
            assert said == (
                f"error: {typed} is not an option; use {option}; see evenload {command} --help"
            )


def test_values_that_begin_with_a_dash_are_no_options(monkeypatch, tmp_path, loads):
    monkeypatch.chdir(tmp_path)
    for given in (("--window", "-1"), ("--window=-1",), ("-o./x y.json",)):
        assert run("plan", loads, "--gpus", 4, *given).exit_code == 0
    fails("plan", "-", "--gpus", 4, error="-: no such file or directory")


@pytest.mark.parametrize("where", ["evenload.io.read_load", "evenload.solve", "os.fsync"])
def test_interrupt(monkeypatch, tmp_path, loads, where):
    """While reading, while planning, and while the placement is written."""

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("plan", loads, "--gpus", 4, "--slots", 12, "-o", tmp_path / "p.json")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("while_loading", [True, False])
def test_an_interrupted_program_says_so_in_one_line_and_waits_for_no_thread(while_loading):
    script = """
import sys, threading
from evenload.__main__ import program
def interrupt(*args):
    raise KeyboardInterrupt
if sys.argv[1] == "True":
    sys.meta_path.insert(0, type("Finder", (), {"find_spec": interrupt}))
else:
    import evenload.cli
    evenload.cli.main = interrupt
threading.Thread(target=threading.Event().wait).start()
program()
"""
    told = subprocess.run(
        [sys.executable, "-c", script, str(while_loading)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout, told.stderr) == (130, "", "interrupted\n")


def test_a_reader_that_goes_is_no_failure_of_ours(loads):
    command = [sys.executable, "-m", "evenload", "inspect", loads]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("plan", "--slots", 12, "--solver", "greedy"), 1),
        (("plan", "--redundant", "auto"), 1),
        (("plan", "--next", "--slots", 12), 1),
    ],
)
def test_plan_solves_once(monkeypatch, loads, options, problem):
    solved = []
    true_solve = evenload.solve

    def solve(*args, **how):
        solved.append(args)
        return true_solve(*args, **how)

    monkeypatch.setattr("evenload.solve", solve, raising=False)
    command, *more = options
    result = run(command, loads, "--gpus", 4, *more, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(solved) == problem
    assert json.loads(result.stdout)["placements"][-1]["planning_ms"] > 0
    assert re.search(r"^kernels ready in \d+\.\d\d s", result.stderr, re.MULTILINE)


class Terminal(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_shows_how_far_it_is(monkeypatch, terminal):
    monkeypatch.setattr(output, "_TERMINAL_SECONDS", 0.001)
    monkeypatch.setattr(output, "_LOG_SECONDS", 0.001)
    monkeypatch.setattr(sys, "stderr", Terminal(terminal))
    clock = [100.0]
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with output.busy("replaying") as tell:
        for clock[0], told, words in (
            (100.0, (2, 9), "2 of 9, 0 s"),
            (103.0, (3, 9), "3 of 9, about 18 s left after 3 s"),
            (110.0, None, "3 of 9, about 11 s left after 10 s"),
            (121.0, None, "3 of 9, 21 s"),  # it was wrong, and nobody knows
            (122.0, ("32 slots",), "32 slots, 22 s"),
        ):
            tell(*told) if told else None
            while f"replaying: {words}" not in sys.stderr.getvalue():  # until the thread has run
                pass
        output.say("a note")
    lines = sys.stderr.getvalue()
    assert ("\r" in lines) == terminal
    if terminal:  # nothing is left of it, and the note stands on a line of its own
        assert re.search(r"\r +\ra note\n", lines)
        assert re.search(r"\r +\r$", lines)


def test_options_may_stand_anywhere():
    parsed = parser_of("report").parse_intermixed_args(["a.npz", "--json", "b.npz", "-o", "c.html"])
    assert [str(path) for path in parsed.replays] == ["a.npz", "b.npz"]
    parsed = parser_of("plan").parse_intermixed_args(["--window", "-1", "x.csv", "--gpus=4"])
    assert (parsed.window, parsed.gpus, str(parsed.loads)) == (-1, 4, "x.csv")


def test_failure_inside_is_not_called_the_users(monkeypatch, loads):
    def broken(*args, **options):
        raise RuntimeError("inside")

    monkeypatch.setattr("evenload.io.read_load", broken)
    result = run("plan", loads, "--gpus", 4)
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_and_option_is_documented(command):
    (page,) = DOCS.rglob("cli.md")
    parser, reference = parser_of(command), page.read_text(encoding="utf-8")
    name = f"evenload {command or ''}".strip()
    _, _, section = reference.partition(f"\n## `{name}`\n")
    section, _, _ = section.partition("\n## ")
    assert section, f"{name} is not in {page}"
    assert parser.description
    for exit_code in ("0 ", "1 ", "2 ", "130 "):
        assert f"\n  {exit_code}" in parser.epilog
    for action in parser._actions:
        assert action.help, action
        for said in action.option_strings or [action.metavar]:
            assert said in section, f"{said} of {name} is not in {page}"


def test_help_starts_without_heavy_imports():
    script = (
        "import sys, evenload.cli\n"
        "for given in (['plan', '--help'], ['--help'], ['--version']):\n"
        "    try: evenload.cli.main(given)\n"
        "    except SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'rich', 'typer', 'matplotlib', 'torch', 'importlib.metadata'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_user_errors_show_no_traceback():
    result = process("plan", "none.npz", "--gpus", 4)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: none.npz: no such file or directory\n"


def test_real_loads_end_to_end(shared, tmp_path):
    out = tmp_path / "p.json"
    path = shared / "data" / "gpt-oss-20b.npz"
    result = process("plan", path, "--gpus", 8, "--slots", 40, "--json", "-o", out)
    assert result.returncode == 0, result.stderr
    trivial, ours = json.loads(result.stdout)["placements"]
    assert ours["balancedness"]["mean"] > 0.99 > trivial["balancedness"]["mean"]
    evaluated = json.loads(run("evaluate", path, out, "--json").stdout)["placements"]
    assert evaluated[-1]["balancedness"] == ours["balancedness"]


def test_plan_and_evaluate_under_a_dispatch(tmp_path, loads):
    placed = tmp_path / "placement.json"
    cluster = ("--gpus", 4, "--nodes", 2, "--slots", 12)
    done = run("plan", loads, *cluster, "--dispatch", "live", "--live-share", 0.5, "-o", placed)
    assert done.exit_code == 0, done.stderr
    assert "2 nodes, dispatch live for 0.5 of the time, else even" in done.stdout.splitlines()[0]
    assert json.loads(placed.read_text())["dispatch"] == "live"
    done = run("evaluate", loads, placed, "--dispatch", "nearest", "--json")
    found = json.loads(done.stdout)["placements"][-1]
    place = read_placement_file(placed).placement
    nearest = place.balancedness(LOAD.sum(axis=0), dispatch="nearest")
    assert found["balancedness"]["per_layer"] == nearest.tolist()
    assert found["dispatch"] == "nearest"
    done = run("evaluate", loads, placed, "--dispatch", "copy")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--dispatch='copy' is unknown; use one of: even, live, nearest, static" in done.stderr


@pytest.mark.parametrize(
    ("file", "message"), [("c.txt", "files with the ending '.txt'"), ("no/c.csv", "no folder")]
)
def test_nothing_is_measured_for_a_file_that_cannot_be(monkeypatch, tmp_path, file, message):
    monkeypatch.setattr("evenload.cost.measure.measure_expert_time", pytest.fail)
    path = tmp_path / file
    done = run("measure-expert-time", "--hidden", 32, "--intermediate", 16, "-o", path)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dispatch", "lp"), "dispatch='lp' is unknown; use one of: even, live, nearest, static"),
        (("--live-share", 0.5), "live_share=0.5 is for dispatch 'live'"),
        (("--dispatch", "live", "--solver", "joint"), "dispatch='live' is beyond solver 'joint'"),
    ],
)
def test_a_dispatch_that_is_refused(loads, options, message):
    done = run("plan", loads, "--gpus", 4, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
