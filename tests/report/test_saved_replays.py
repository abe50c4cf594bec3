"""Replays in files, and the command that makes pages and pictures of them."""

import dataclasses
import json
import re

import numpy as np
import pytest
from command import run
from costs import LARGE
from replay_pages import LAYERS, small_replays, small_trace

from evenload import Cluster
from evenload.report.saved import load_replays, save_replays

PRICES = [word for name, n in LARGE.numbers.items() for word in ("--cost", f"{name}={n}")]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A trace in a file, its replays, and the file with those."""
    from evenload import read_trace

    folder = tmp_path_factory.mktemp("kept")
    trace = small_trace()
    load = np.stack([trace.window(t) for t in range(trace.num_windows)])
    np.savez(folder / "trace.npz", load=load)
    recorded = read_trace(folder / "trace.npz")
    replays = small_replays(recorded, ("never", "deepseek"))
    save_replays(folder / "replays.npz", replays)
    return folder / "trace.npz", replays, folder / "replays.npz"


def assert_same(ours, theirs):
    for field in dataclasses.fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype, field.name
            assert np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f"), field.name
        elif field.name == "settings":
            assert json.loads(json.dumps(mine)) == other
        else:
            assert mine == other, field.name


def test_replays_come_back(kept):
    _, replays, file = kept
    for ours, theirs in zip(replays, load_replays(file), strict=True):
        assert_same(ours, theirs)


def test_gpus_that_differ_come_back(tmp_path):
    cluster = Cluster(4, slots=[5, 7, 6, 6], speed=[1, 2, 1, 1], alive=[True, True, True, False])
    trace = small_trace(windows=4)
    replays = small_replays(trace, ["never"], cluster, oracle=None)
    save_replays(tmp_path / "r.npz", replays)
    assert_same(replays[0], load_replays(tmp_path / "r.npz")[0])


def test_what_is_no_file_of_replays(tmp_path, kept):
    trace, replays, file = kept
    with pytest.raises(ValueError, match=r"r\.json: replays are not kept .* '\.json'; use \.npz"):
        save_replays(tmp_path / "r.json", replays)
    with pytest.raises(ValueError, match="replays is empty; use at least one"):
        save_replays(tmp_path / "r.npz", [])
    with pytest.raises(ValueError, match="no replays are in it"):
        load_replays(trace)
    with pytest.raises(ValueError, match="this is a folder; give a file"):
        load_replays(tmp_path)
    whole = file.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"{}"):
        (tmp_path / "broken.npz").write_bytes(broken)
        with pytest.raises(ValueError, match="no replays are in it"):
            load_replays(tmp_path / "broken.npz")
    with pytest.raises(FileNotFoundError):
        load_replays(tmp_path / "none.npz")


def test_a_field_too_few_is_refused(tmp_path, kept):
    with np.load(kept[2]) as file:
        members = {name: file[name] for name in file.files if name != "1/served"}
    np.savez(tmp_path / "r.npz", **members)
    with pytest.raises(ValueError, match=r"fields \['served'\]"):
        load_replays(tmp_path / "r.npz")


def test_the_command_writes_the_page_that_replay_writes(tmp_path, kept):
    pytest.importorskip("plotly")
    trace, _, _ = kept
    first, saved, again = tmp_path / "a.html", tmp_path / "r.npz", tmp_path / "b.html"
    options = ("--gpus", 4, "--slots", 20, "--policy", "never", *PRICES)
    result = run("replay", trace, *options, "--report", first, "--save", saved)
    assert result.exit_code == 0, result.stderr
    assert f"wrote the replays to {saved}" in result.stderr
    result = run("report", saved, "-o", again)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^once +0\.\d{4} ", result.stdout, flags=re.MULTILINE)
    assert again.read_bytes() == first.read_bytes()


def test_the_command_draws_pictures(tmp_path, kept):
    pytest.importorskip("matplotlib")
    result = run("report", kept[2], "--figures", tmp_path / "figures")
    assert result.exit_code == 0, result.stderr
    assert "wrote 5 pictures to" in result.stderr
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5


def test_what_the_command_refuses(tmp_path, kept):
    pytest.importorskip("plotly")
    _, replays, file = kept

    def fails(*args, error):
        result = run("report", *args)
        assert result.exit_code == 2
        assert error in result.stderr.splitlines()[-1]

    fails(file, "-o", "page.pdf", error="page.pdf: pages with the ending '.pdf' are not known")
    page = tmp_path / "p.html"
    fails(
        file,
        file,
        "-o",
        page,
        error="'never' is there 2 times under dispatch 'even'; use each once",
    )
    gone = tmp_path / "gone.npz"
    fails(file, "-o", page, "--trace", gone, error=f"{gone}: no such file or directory")
    np.savez(tmp_path / "other.npz", load=np.ones((3, LAYERS, 4)))
    fails(file, "-o", page, "--trace", tmp_path / "other.npz", error="trace has 3 layers x 4")
    nameless = [dataclasses.replace(r, settings={}) for r in replays]
    save_replays(tmp_path / "n.npz", nameless)
    fails(tmp_path / "n.npz", "-o", page, error="do not say where their trace was; give it with")
    assert not page.exists()
