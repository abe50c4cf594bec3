"""The command that compares policies."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import process, run

from evenload import Cluster, CostModel, solve
from evenload.io import write_placement
from evenload.replay import replay
from evenload.report.policies import policy_lines
from evenload.report.tables import print_policies, sweep_lines
from evenload.synth import synthetic_trace

LOADS = synthetic_trace(8, 2, 8, seed=2, tokens=2000)
SECONDS = ("--hardware", "h100-ib", "--model", "mixtral-8x7b")
COST = CostModel.preset("h100-ib", "mixtral-8x7b")


@pytest.fixture
def trace(tmp_path) -> Path:
    np.savez_compressed(tmp_path / "trace.npz", load=LOADS)
    return tmp_path / "trace.npz"


def replaying(trace, *more):
    return run("replay", trace, "--gpus", 4, *SECONDS, *more)


def test_the_table(trace) -> None:
    done = process("replay", trace, "--gpus", 4, "--slots", 12, *SECONDS)
    assert done.returncode == 0, done.stderr
    title, *_ = done.stdout.splitlines()
    assert title == (
        "trace.npz: 2 layers x 8 experts, 12 slots on 4 GPUs; 7 windows of 1, decisions every 1; "
        "seconds of mixtral-8x7b on h100-ib"
    )
    for name in ("never", "once", "deepseek", "evenload"):
        assert re.search(rf"^{name} +0\.\d{{4}} ", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^\w+ takes the least time in all, ", done.stdout, flags=re.MULTILINE)
    assert "replayed 28 windows" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # no colours and no bar outside a terminal


def test_json_is_what_the_library_gives(trace) -> None:
    done = replaying(
        trace, "--slots", "12", "--nodes", "2", "--policy", "every-2:greedy", "--policy", "never",
        "--merge", "2", "--interval", "1", "--warm-start", "2", "--hardware", "l40s-pcie",
        "--model", "mixtral-8x22b", "--cost", "overlap=0.75", "--recorded-share", "0.5",
        "--groups", "2", "--oracle", "joint", "--no-delay", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["trace"]["shape"] == [8, 2, 8]
    result = replay(
        LOADS,
        Cluster(4, 2, num_slots=12),
        "every-2:greedy",
        merge=2,
        warm_start=2,
        cost=CostModel.preset("l40s-pcie", "mixtral-8x22b", overlap=0.75),
        recorded_share=0.5,
        num_groups=2,
        oracle="joint",
        delay=False,
    )
    ours, other = entry["replays"][0], json.loads(json.dumps(result.to_dict()))
    ours["settings"].pop("source")
    other["settings"].pop("source")
    for clocked in ("planning_ms",):
        ours.pop(clocked)
        other.pop(clocked)
    ours["per_rebalance"].pop("planning_seconds")
    other["per_rebalance"].pop("planning_seconds")
    assert ours == other


def test_a_start_from_a_file(trace, tmp_path) -> None:
    place = solve(LOADS[0], Cluster(4, num_slots=12)).placement
    write_placement(tmp_path / "start.json", place)
    start = str(tmp_path / "start.json")
    done = replaying(trace, "--slots", "12", "--policy", "never", "--start", start, "--json")
    entry = json.loads(done.stdout)["replays"][0]
    result = replay(LOADS, Cluster(4, num_slots=12), "never", cost=COST, start=place)
    assert entry["balancedness"] == result.balancedness.mean()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--policy", "nevr"), "policy='nevr' is unknown; use one of: never, once, once:SOLVER, "
         "every-N, every-N:SOLVER, deepseek, vllm, evenload"),
        (("--policy", "once:best"), "solver='best' is unknown; use one of: auto, exact, greedy"),
        (("--merge", "9"), "merge=9 makes fewer than 2 windows of the trace's 8, and a replay "
         "plans from one and serves the next; use at most merge=4"),
        (("--interval", "0"), "interval=0 is less than 1; use 1 or more"),
        (("--hardware", "abacus"), "hardware='abacus' is unknown; use one of: h100-ib"),
        (("--model", "eliza"), "model='eliza' is unknown; use one of: deepseek-v3"),
        (("--cost", "latency=-1"), "latency=-1.0 is not finite and above 0; use e.g. 1.0"),
        (("--cost", "speed=1"), "speed is not a number of a CostModel; use one of: tokens_per"),
        (
            ("--report", "page.pdf"),
            "page.pdf: pages with the ending '.pdf' are not known; use one of .html, .htm",
        ),
        (("--slots", "6"), "num_slots=6 is fewer than num_experts=8"),
        (("--experts", "9"), "trace.npz: the file has 8 experts per layer, and num_experts=9"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(trace, more, message) -> None:
    done = replaying(trace, *more)
    assert done.exit_code == 2
    assert done.stdout == ""
    *_, error = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in done.stderr


def test_a_gap_in_the_file_is_named(tmp_path) -> None:
    loads = LOADS.copy()
    loads[5, 1] = 0
    np.savez(tmp_path / "gap.npz", load=loads)
    done = replaying(tmp_path / "gap.npz", "--policy", "never")
    assert done.exit_code == 2
    assert "gap.npz: window 5: layer 1 is all zero, a gap in the recording" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 120, 250])
def test_a_narrow_terminal_gets_fewer_columns_and_is_told(monkeypatch, width) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    cluster = Cluster(4, num_slots=12)
    names = ("never", "every-4:joint,effort=fast")
    cells = {"num_gpus": 4, "num_slots": 12, "merge": 1, "interval": 1}
    rows = [replay(LOADS, cluster, name, cost=COST).figures() | cells for name in names]
    stream = Terminal()
    print_policies("title", rows, policy_lines(rows), stream, cells=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    table = text[: text.index("in all, ")].splitlines()[:-1]
    assert max(len(line) for line in table if not line.startswith("no room")) <= width
    assert "…" not in text
    assert ("no room here for: planning ms" in text) == (width < 250)
    assert "total s" in text
    everything = io.StringIO()
    print_policies("title", rows, [], everything, cells=True)
    assert "planning" in everything.getvalue()


def test_what_a_sweep_is_for() -> None:
    def row(gpus, slots, policy, seconds):
        cell = {"num_gpus": gpus, "num_slots": slots, "policy": policy, "dispatch": "even"}
        cell |= {"merge": 1, "interval": 1, "outlasted": 0}
        return cell | {"total_seconds": seconds, "net_seconds": 2.0 - seconds}

    rows = [row(8, 32, "a", 2.0), row(8, 32, "b", 1.5), row(8, 40, "a", 1.005)]
    rows += [row(8, 48, "b", 1.0), row(16, 32, "a", 1.0)]
    rows += [row(8, 48, "once", 1.28)]
    assert sweep_lines(rows) == [
        "8 GPUs: b on 48 slots takes the least time in all, 1 s, 50.0% less than never moving, "
        "and 21.8% less than planning once.",
        "16 GPUs: a on 32 slots takes the least time in all, 1 s, 50.0% less than never moving.",
    ]


def test_a_table_for_each_dispatch(trace, tmp_path) -> None:
    page = tmp_path / "page.html"
    done = replaying(
        trace, "--slots", 12, "--policy", "deepseek", "--policy", "evenload", "--dispatch", "even",
        "--dispatch", "live", "--report", page,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    heads = re.findall(r"^trace.npz: .*; dispatch (\w+)$", done.stdout, flags=re.MULTILINE)
    assert heads == ["even", "live"]
    assert len(re.findall(r"^evenload +0", done.stdout, flags=re.MULTILINE)) == 2
    text = page.read_text()
    assert "dispatch even and live" in text
    for name in (
        "deepseek (even)",
        "evenload (live)",
        "never (live)",
        "oracle (even)",
    ):
        assert name in text


def test_prices_are_told_or_those_of_the_shape(trace, tmp_path) -> None:
    def priced(*more, file=trace):
        return run("replay", file, "--gpus", 4, "--policy", "never", "--json", *more)

    for more, message in (
        ((), "seconds need --hardware; use one of: h100-ib, "),
        (("--hardware", "h100-ib"), "no model of the presets has 2 layers x 8 experts; use "
         "mixtral-8x7b, mixtral-8x22b, or tokens_per_second and expert_bytes of your own"),
        (("--hardware", "h100-ib", "--model", "deepseek-v3"), "model='deepseek-v3' has 58 layers x "
         "256 experts, and the load 2 x 8; use mixtral-8x7b, "),
        (("--hardware", "h100-ib", "--cost", "expert_bytes=1e6"), "no model of the presets has 2 "
                                                                  "layers x 8"),
    ):  # fmt: skip
        done = priced(*more)
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr
    np.savez(tmp_path / "gpt-oss.npz", load=synthetic_trace(3, 24, 32, seed=1))
    done = priced("--hardware", "h100-ib", file=tmp_path / "gpt-oss.npz")
    cost = json.loads(done.stdout)["replays"][0]["settings"]["cost"]
    assert (cost["model"], cost["hardware"]) == ("gpt-oss-20b", "h100-ib")
    own = [f"{name}=1e9" for name in ("tokens_per_second", "expert_bytes")]
    links = [f"bandwidth_{name}=1e9" for name in ("in_node", "between_nodes")]
    for numbers, more in ((own, ("--hardware", "h100-ib")), ([*own, *links], ())):
        done = priced(*more, *(word for number in numbers for word in ("--cost", number)))
        cost = json.loads(done.stdout)["replays"][0]["settings"]["cost"]
        assert (cost["model"], cost["expert_bytes"]) == ("", 1e9)


LONG = ("--recorded-share", 1e-9)  # windows of seconds, as those of servers


def test_never_and_once_stand_beside_what_is_asked_for(trace) -> None:
    done = replaying(trace, "--slots", 12, "--policy", "deepseek", *LONG)
    names = re.findall(r"^(never|once|deepseek) +0", done.stdout, flags=re.MULTILINE)
    assert names == ["deepseek", "never", "once"]


def test_a_verdict_compares_with_never_and_once() -> None:
    def row(policy, seconds, dispatch="even"):
        told = {"policy": policy, "dispatch": dispatch, "outlasted": 0, "put_off": 0}
        return told | {"total_seconds": seconds, "net_seconds": 8.0 - seconds}

    never, once, ours = row("never", 8.0), row("once", 6.0), row("evenload", 4.5)
    other = row("once", 1.0, "live")
    for rows, verdict in (
        ((never, once, ours, other | {"total_seconds": 5.0}),
         "evenload takes the least time in all, 4.5 s: 43.7% less than never moving, and 25.0% "
         "less than planning once."),
        ((never, once), "once takes the least time in all, 6 s: 25.0% less than never moving."),
        ((never, row("once", 9.0)),
         "never takes the least time in all, 8 s: 11.1% less than planning once."),
        ((ours,), "evenload takes the least time in all, 4.5 s: 43.7% less than never moving."),
    ):  # fmt: skip
        assert policy_lines(rows) == [verdict]


def test_moves_that_outlast_their_window_are_a_warning(trace) -> None:
    done = replaying(trace, "--slots", 12, "--policy", "deepseek")
    assert re.search(
        r"^never takes the least time in all, .* less than planning once\.$", done.stdout, re.M
    )
    assert re.search(
        r"^warning: deepseek had moves that took longer than the whole window after them, in \d+ "
        r"of \d+ rebalances; a window is \S+ µs of serving here$",
        done.stdout,
        re.M,
    )
    assert "--recorded-share 0.01" in done.stdout
    assert "warning" not in replaying(trace, "--slots", 12, "--policy", "deepseek", *LONG).stdout


def test_console_and_page_show_the_same_figures(trace, tmp_path) -> None:
    page = tmp_path / "page.html"
    done = replaying(trace, "--slots", 12, "--policy", "deepseek", "--report", page)
    text = page.read_text()
    for name in ("deepseek", "never", "once"):
        shown = re.search(rf"^{name} +(.*)$", done.stdout, re.M)[1].split()
        row = re.search(rf"</span>{name}</th>(.*?)</tr>", text)[1]
        cells = re.findall(r"<td>(.*?)</td>", row)
        assert [cell.replace("&minus;", "-").replace("&ndash;", "-") for cell in cells] == shown
    assert re.search(r"^never takes the least .*$", done.stdout, re.M)[0] in text


def test_an_unknown_dispatch(trace) -> None:
    done = replaying(trace, "--dispatch", "lp")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--dispatch='lp' is unknown; use one of: even, live, nearest, static" in done.stderr
