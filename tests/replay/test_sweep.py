"""Grids of replays: the same whoever runs them, and nothing finished is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from command import process, run
from costs import LARGE

from evenload import Cluster, read_trace
from evenload.cli.sweep import slots_of
from evenload.io.files import remove_unfinished
from evenload.replay import replay, sweep, write_results
from evenload.replay.results import check_results_path
from evenload.replay.sweep import Cell
from evenload.synth import synthetic_trace

LOADS = synthetic_trace(8, 2, 8, seed=2, tokens=2000)
GRID = {
    "policies": ["never", "deepseek"],
    "num_gpus": [2, 4],
    "num_slots": [8, 12],
    "interval": [1, 3],
    "oracle": None,
    "cost": LARGE,
}


SECONDS = ("--hardware", "h100-ib", "--model", "mixtral-8x7b")
PRICES = [word for name, n in LARGE.numbers.items() for word in ("--cost", f"{name}={n}")]


def without_times(rows):
    return [{name: row[name] for name in row if name != "planning_ms"} for row in rows]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return without_times(sweep(LOADS, **GRID, folder=tmp_path_factory.mktemp("all"), workers=1))


def test_every_cell_is_the_replay_of_its_own(expected) -> None:
    assert len(expected) == 16
    for row in expected:
        result = replay(
            LOADS,
            Cluster(row["num_gpus"], num_slots=row["num_slots"]),
            row["policy"],
            cost=LARGE,
            interval=row["interval"],
            oracle=None,
        )
        figures = result.figures()
        assert all(row[name] == figures[name] for name in figures if name != "planning_ms")


def test_processes_and_threads_give_the_same(expected, tmp_path) -> None:
    told = []
    rows = sweep(LOADS, **GRID, folder=tmp_path / "p", workers=2,
                 progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert without_times(rows) == expected
    assert told == [(n, 16) for n in range(17)]
    with ThreadPoolExecutor(2) as pool:
        rows = sweep(LOADS, **GRID, folder=tmp_path / "t", executor=pool)
        assert without_times(rows) == expected
        assert pool.submit(int, 3).result() == 3  # it is left open


@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_a_dask_cluster_of_real_workers(expected, tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    np.save(tmp_path / "trace.npy", LOADS)
    workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**workers, processes=True) as cluster,
        distributed.Client(cluster) as client,
    ):
        pool = client.get_executor()
        rows = sweep(read_trace(tmp_path / "trace.npy"), **GRID, folder=tmp_path, executor=pool)
        assert without_times(rows) == expected
        pids = client.run(os.getpid)
        assert len(set(pids.values()) | {os.getpid()}) == 3


@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_the_command_on_a_dask_cluster(tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("pyarrow")
    np.save(tmp_path / "trace.npy", LOADS)
    workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    command = ("sweep", tmp_path / "trace.npy", "--gpus", 4, "--slots", 12, "--policy", "never",
               "--policy", "once", "--json", *SECONDS)  # fmt: skip
    with distributed.LocalCluster(**workers, processes=True) as cluster:
        there = ("--dask", cluster.scheduler_address, "-o", tmp_path / "there.parquet")
        done = process(*command, *there)
        with distributed.Client(cluster) as client:
            ran = client.run(lambda: "evenload.replay.sweep" in sys.modules)
    assert done.returncode == 0, done.stderr
    assert any(ran.values())
    alone = run(*command, "-o", tmp_path / "here.parquet")
    assert alone.exit_code == 0, alone.stderr
    cells = [json.loads(result.stdout)["cells"] for result in (done, alone)]
    assert without_times(cells[0]) == without_times(cells[1])


class Stopping(Executor):
    """Runs some cells, then is interrupted like a user would do it."""

    def __init__(self, after):
        self.left = after

    def submit(self, function, /, *arguments, **options):
        future = Future()
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        future.set_result(function(*arguments, **options))
        return future


@pytest.mark.parametrize("after", [0, 1, 7, 15])
def test_an_interrupt_loses_no_finished_cell(expected, tmp_path, after) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(LOADS, **GRID, folder=tmp_path, executor=Stopping(after))
    assert len(list(tmp_path.glob("*.json"))) == after
    started = []
    rows = sweep(LOADS, **GRID, folder=tmp_path, workers=1,
                 progress=lambda done, total: started.append(done))  # fmt: skip
    assert started[0] == after
    assert without_times(rows) == expected


def test_what_a_killed_sweep_left_is_gone_once_it_is_resumed(expected, tmp_path) -> None:
    folder, out = tmp_path / "cells", tmp_path / "rows.json"
    folder.mkdir()
    left = [folder / ".0a1b.json.0123abcd.tmp", tmp_path / ".rows.json.89abcdef.tmp"]
    kept = [folder / ".notes.tmp", tmp_path / ".other.json.89abcdef.tmp"]
    for path in (*left, *kept):
        path.write_text("{")
    rows = sweep(LOADS, **GRID, folder=folder, workers=1)
    write_results(out, rows)
    assert without_times(rows) == expected
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.skipif(sys.platform == "win32", reason="nobody can remove an open file there")
def test_what_another_sweep_writes_stays(tmp_path) -> None:
    cell = tmp_path / "0a1b.json"
    writes = (
        "import sys; from evenload.io import replace_file\n"
        "with replace_file(sys.argv[1]) as stream:\n"
        "    print('writing', flush=True); sys.stdin.read(); stream.write(b'{}')"
    )
    command = [sys.executable, "-c", writes, str(cell)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"writing\n"
        remove_unfinished(tmp_path)
        other.communicate()
    assert other.returncode == 0
    assert cell.read_text() == "{}"


def test_an_error_in_one_cell_loses_no_other(tmp_path) -> None:
    # At the last window a number is wrong, which is found before any cell runs ...
    loads = LOADS.astype(float)
    loads[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^window 7: load\[0, 0\]=nan"):
        sweep(loads, **GRID, folder=tmp_path, workers=1)
    assert not list(tmp_path.glob("*"))
    # ... and a solver's option, which is not.
    grid = {**GRID, "policies": ["never", "once:joint,efort=3", "deepseek"]}
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="has no option 'efort'"):
        sweep(LOADS, **grid, folder=tmp_path, executor=pool)
    assert list(tmp_path.glob("*.json"))


def test_a_larger_grid_runs_only_what_is_new(expected, tmp_path) -> None:
    small = {**GRID, "num_gpus": 2}
    sweep(LOADS, **small, folder=tmp_path, workers=1)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(files) == 8
    rows = sweep(LOADS, **GRID, folder=tmp_path, workers=1)
    assert without_times(rows) == expected
    assert all(path.stat().st_mtime_ns == files[path] for path in files)


@pytest.mark.parametrize(
    "change",
    [{"recorded_share": 0.5}, {"cost": replace(LARGE, overlap=1.0)}, {"delay": False},
     {"oracle": "fast"}, {"warm_start": 2}, {"merge": 2}, {"gpus_per_node": 2, "num_gpus": [4]}],
)  # fmt: skip
def test_other_settings_are_other_cells(tmp_path, change) -> None:
    grid = {**GRID, "num_gpus": [4], "policies": ["never"]}
    sweep(LOADS, **grid, folder=tmp_path, workers=1)
    sweep(LOADS, **{**grid, **change}, folder=tmp_path, workers=1)
    assert len(list(tmp_path.glob("*.json"))) == 2 * 4
    sweep(LOADS[:, ::-1], **grid, folder=tmp_path, workers=1)
    assert len(list(tmp_path.glob("*.json"))) == 3 * 4


def test_a_file_that_is_no_cell_is_named(tmp_path) -> None:
    sweep(LOADS, **GRID, folder=tmp_path, workers=1)
    path = sorted(tmp_path.glob("*.json"))[0]
    whole = path.read_text()
    for text in (whole[:30], "[]", whole.replace('"interval"', '"else"')):
        path.write_text(text)
        with pytest.raises(
            ValueError, match=f"^{re.escape(str(path))}: this is not a finished cell"
        ):
            sweep(LOADS, **GRID, folder=tmp_path, workers=1)


def test_nodes_hold_a_number_of_gpus() -> None:
    from evenload.replay.sweep import grid
    from evenload.trace import Trace

    cells = grid(Trace(LOADS), ["never"], [2, 8, 16], 16, 1, 1, 8)
    assert [cell.num_nodes for cell in cells] == [1, 1, 2]
    assert cells[2] == Cell("never", 16, 2, 16, 1, 1)
    with pytest.raises(
        ValueError, match="num_gpus=12 is not a multiple of gpus_per_node=8; use 8 or"
    ):
        grid(Trace(LOADS), ["never"], [12], 16, 1, 1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ["never", "nevr"]}, "policy='nevr' is unknown; use one of: never, once"),
        ({"policies": []}, "policies is empty; use one or more"),
        ({"num_gpus": [0]}, "num_gpus=0 is less than 1; use 1 or more"),
        ({"num_gpus": []}, "num_gpus is empty; use one number or more"),
        ({"num_slots": [8, 4]}, "num_slots=4 is fewer than num_experts=8"),
        ({"merge": [1, 9]}, "merge=9 makes fewer than 2 windows of the trace's 8, and"),
        ({"merge": [8]}, "merge=8 makes fewer than 2 windows of the trace's 8, and a replay"),
        ({"interval": [0]}, "interval=0 is less than 1; use 1 or more"),
        ({"warm_start": 8}, "warm_start=8 leaves none of the trace's 8 windows to serve; use 7"),
        ({"oracle": "best"}, "solver='best' is unknown; use one of: auto, "),
        ({"oracle": len}, "oracle=<built-in function len>: a sweep takes 'fast', a solver's name"),
        ({"cost": 0}, "cost=0 is not a CostModel"),
        ({"recorded_share": -1}, "recorded_share=-1.0 is not finite and above 0"),
        ({"workers": 0}, "workers=0 is less than 1; use 1 or more"),
        ({"executor": 3}, "executor=3 has no submit()"),
        ({"executor": Stopping(0), "workers": 2}, "workers=2 and an executor were given"),
    ],
)  # fmt: skip
def test_bad_sweeps_are_refused_before_anything_runs(tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        sweep(LOADS, **{**GRID, **change}, folder=tmp_path / "cells")
    assert not list(tmp_path.rglob("*.json"))


# --- results ------------------------------------------------------------------------------------


def test_results_in_every_format(expected, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in (".parquet", ".csv", ".json"):
        write_results(tmp_path / f"rows{ending}", expected)
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == expected
    assert json.loads((tmp_path / "rows.json").read_text()) == expected
    head, first, *_ = (tmp_path / "rows.csv").read_text().splitlines()
    assert head.startswith(
        "policy,num_gpus,num_nodes,num_slots,merge,interval,dispatch,num_windows,balancedness"
    )
    assert first.startswith("never,2,1,8,1,1,even,7,")
    with pytest.raises(ValueError, match=r"ending '\.txt'; use one of \.parquet, \.csv, \.json"):
        write_results(tmp_path / "rows.txt", expected)


def test_parquet_without_pyarrow(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"needs pyarrow, which is not installed; use pip install"):
        check_results_path("rows.parquet")


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def sweeping(tmp_path):
    np.save(tmp_path / "trace.npy", LOADS)
    grid = ("--gpus", 2, "--gpus", 4, "--redundant", 0, "--redundant", 4, "--policy", "never",
            "--policy", "once", *SECONDS)  # fmt: skip
    return lambda *more: run("sweep", tmp_path / "trace.npy", *grid, *more)


def test_the_command_prints_a_table_and_writes_the_rows(tmp_path, sweeping) -> None:
    out = tmp_path / "rows.json"
    done = sweeping("--workers", 1, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "trace.npy: 8 windows, 2 layers x 8 experts" in done.stdout
    assert re.search(r"^never +2 +8 +1 +1 +0\.\d{4}", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^4 GPUs: \w+ on \d+ slots takes the least time", done.stdout, re.MULTILINE)
    rows = json.loads(out.read_text())
    assert [row["num_slots"] for row in rows] == [8, 8, 12, 12] * 2
    assert len(list((tmp_path / "rows.json.cells").glob("*.json"))) == 8
    again = sweeping("--workers", 1, "-o", out, "--json")
    assert json.loads(again.stdout)["cells"] == rows  # times and all: nothing ran again


def test_the_command_refuses_before_it_works(sweeping) -> None:
    for more, message in (
        (("-o", "x.txt"), "x.txt: a sweep is not written to files with the ending '.txt'"),
        (("-o", "x.json", "--slots", "9"), "--slots and --redundant are two ways"),
        (("-o", "x.json", "--redundant", "-1"), "--redundant -1 is less than 0; use 0 or more"),
        (("-o", "x.json", "--cost", "latency=0"), "latency=0.0 is not finite and above 0"),
        (("-o", "x.json", "--cost", "latency"), "--cost latency: no number"),
        (("-o", "x.json", "--policy", "x"), "policy='x' is unknown; use one of: never,"),
    ):
        done = sweeping(*more)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {message}")
        assert done.stderr.count("\n") == 1


def test_slots_have_to_be_said() -> None:
    message = r"^how many slots is not said; give --slots \(at least 8\) or --redundant$"
    with pytest.raises(ValueError, match=message):
        slots_of(None, None, 8)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_workers_leave_an_interrupt_from_the_terminal_to_the_command(tmp_path) -> None:
    """A terminal sends it to all processes; the first ones that are starting print nothing."""
    np.save(tmp_path / "long.npy", synthetic_trace(40, 4, 16, seed=5))
    out = tmp_path / "rows.csv"
    arguments = [sys.executable, "-m", "evenload", "sweep", str(tmp_path / "long.npy"), "--gpus",
                 "4", "--slots", "20", "--slots", "24", "--policy", "every-1:joint,effort=200000",
                 "--workers", "2", *PRICES, "-o", str(out)]  # fmt: skip
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True)
    cells = tmp_path / "rows.csv.cells"
    deadline = time.monotonic() + 120
    while not cells.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # workers are loading modules
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        f"finished replays are kept in {cells}; the same command goes on from there",
        "interrupted",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_the_command_can_be_interrupted_and_goes_on(tmp_path) -> None:
    """One process, stopped by a real signal while a long cell runs."""
    long = synthetic_trace(40, 4, 16, seed=5)
    np.save(tmp_path / "long.npy", long)
    out = tmp_path / "rows.json"
    arguments = [sys.executable, "-m", "evenload", "sweep", str(tmp_path / "long.npy"), "--gpus",
                 "4", "--slots", "20", "--policy", "never", "--policy",
                 "every-1:joint,effort=200000", "--workers", "2", *PRICES, "-o",
                 str(out)]  # fmt: skip
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    cells = tmp_path / "rows.json.cells"
    deadline = time.monotonic() + 120
    while not list(cells.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"finished replays are kept in {cells}; the same command goes on" in errors
    assert not out.exists()
    # Never, and perhaps once.
    assert [p.suffix for p in cells.iterdir()] in ([".json"], [".json"] * 2)


def test_dispatches_are_an_axis(tmp_path):
    how = {"policies": ["never"], "num_gpus": 2, "num_slots": 8, "folder": tmp_path, "workers": 1}
    how["cost"] = LARGE
    rows = sweep(LOADS, dispatch=["even", "live"], **how)
    assert [row["dispatch"] for row in rows] == ["even", "live"]
    with pytest.raises(ValueError, match=r"^dispatch='lp' is unknown; use one of"):
        sweep(LOADS, dispatch="lp", **how)
    with pytest.raises(ValueError, match=r"^dispatch is empty; use one or more"):
        sweep(LOADS, dispatch=[], **how)
