"""The page of a replay, without a browser: what is in the file, and what is refused."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from replay_pages import EXPERTS, LAYERS, POLICIES, WINDOWS, renamed, small_replays, small_trace

from evenload import Cluster, Placement, Trace
from evenload.report.charts import GAP, pack, step_for
from evenload.report.labels import PLACES, place_labels
from evenload.report.page import write_figures, write_page
from evenload.report.story import Runs, Story, spaced
from evenload.report.text import down

pytest.importorskip("plotly")

CHARTS = ("tradeoff", "balance", "moving", "loads-left", "loads-right", "hot")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> %{y} $title & \"'\u2028"


class Outline(HTMLParser):
    """Elements of a page, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._stack = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        self._stack.append(tag)

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data):
        if self._stack and self._stack[-1] == "script":
            self.scripts[-1][1] += data

    @property
    def data(self):
        texts = [text for attrs, text in self.scripts if attrs.get("id") == "data"]
        assert len(texts) == 1
        return json.loads(texts[0], parse_constant=pytest.fail)


def unpack(text, step):
    """Undo `pack`, but for the rounding; a flat array."""
    counts = np.frombuffer(base64.b64decode(text), "<u2")
    return np.where(counts == GAP, np.nan, counts * step)


def lines(data, figure):
    """What the figure draws, by name; of several of one name a list."""
    found = {}
    for line in data["figures"][f"{figure}-chart"]["data"]:
        found.setdefault(line.get("name"), []).append(line)
    return found


@pytest.fixture(scope="module")
def trace():
    return small_trace()


@pytest.fixture(scope="module")
def replays(trace):
    return small_replays(trace)


@pytest.fixture(scope="module")
def page(trace, replays, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(replays, trace, path)
    return path.read_text(encoding="utf-8")


def test_all_figures_have_a_place_a_name_and_a_sentence(page):
    outline = Outline(page)
    by_id = {attrs["id"]: (tag, attrs) for tag, attrs in outline.elements if "id" in attrs}
    for chart in CHARTS:
        _, attrs = by_id[f"{chart}-chart"]
        assert attrs["role"] == "img"
        assert attrs["aria-labelledby"] in by_id
        assert attrs["aria-describedby"] in by_id
    for slider in ("loads-window", "hot-layer"):
        assert by_id[slider][1]["type"] == "range"
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in outline.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(by_id)


def test_nothing_is_fetched(page):
    for tag, attrs in Outline(page).elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            address = attrs.get(name, "")
            assert address == "" or address.startswith(("#", "data:")), (tag, attrs)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    # Should any of the scripts try it nevertheless, this forbids it.
    assert "default-src 'none'" in page


def test_the_numbers_are_those_of_the_replays(page, trace, replays):
    data = Outline(page).data
    balance, moving = lines(data, "balance"), lines(data, "moving")
    # Never is the same line as the starting placement.
    assert list(balance) == ["oracle", *POLICIES]
    assert list(moving) == list(POLICIES)
    mean, worst = (
        dict(zip(balance, data["balance"][what], strict=True)) for what in data["balance"]
    )
    assert list(data["balance"]) == ["mean", "worst"]
    never = replays[0]
    assert np.allclose(mean["oracle"], never.oracle.mean(axis=1), atol=5.1e-5)
    assert np.allclose(worst["oracle"], never.oracle.min(axis=1), atol=5.1e-5)
    for replay in replays:
        (line,), (moved, saved, marks) = balance[replay.policy], moving[replay.policy]
        assert line["x"] == moved["x"] == saved["x"] == replay.windows.tolist()
        assert line["y"] == mean[replay.policy]
        assert np.allclose(mean[replay.policy], replay.balancedness.mean(axis=1), atol=5.1e-5)
        assert np.allclose(worst[replay.policy], replay.balancedness.min(axis=1), atol=5.1e-5)
        assert moved["y"][-1] == replay.moves.sum()
        gained = never.total_seconds - replay.total_seconds
        assert saved["y"][-1] == pytest.approx(gained, rel=1e-4, abs=1e-9)
        assert marks["x"] == replay.rebalance_window.tolist()
        said = [net.split()[0] for _, _, net in marks["customdata"]]
        saved_any = (replay.net_seconds > 0).tolist()
        assert said == ["saved" if saved else "lost" for saved in saved_any]
        assert replay.net_seconds.sum() == pytest.approx(gained)
        full = ["-open" not in symbol for symbol in marks["marker"]["symbol"]]
        assert full == saved_any


def test_heat_maps_are_the_loads_of_what_served(page, trace, replays):
    loads = Outline(page).data["loads"]
    W, G = len(replays[0].windows), 4
    for number, text in enumerate(loads["maps"]):
        maps = unpack(text, loads["step"]).reshape(W, LAYERS, G)
        for n in (0, W // 2, W - 1):
            load = trace.window(int(replays[0].windows[n]))
            if number == 0:
                row = replays[0].placements[0]
            else:
                replay = replays[number - 1]
                row = replay.placements[replay.served[n]]
            gpu_load = Placement(row, replays[0].cluster, EXPERTS).gpu_load(load)
            expected = gpu_load / gpu_load.mean(axis=1, keepdims=True)
            assert np.abs(maps[n] - expected).max() <= loads["step"] / 2 + 1e-12


def test_hot_experts_are_the_hottest(page, trace):
    data = Outline(page).data
    hot = data["hot"]
    load = np.stack([trace.window(t) for t in range(1, WINDOWS)])
    share = load / load.mean(axis=2, keepdims=True)
    for layer, experts in enumerate(hot["experts"]):
        assert len(experts) == len(set(experts))
        assert int(share[:, layer].max(axis=0).argmax()) in experts
        assert share[:, layer, experts].mean(axis=0).argmax() == 0
    _, since_last, since_first = data["figures"]["hot-chart"]["data"]
    assert since_last["y"][0] == since_first["y"][0] == 1.0


def test_the_answer_and_the_table(page, replays):
    text = re.search(r'id="answer">(.*?)</p>', page)[1]
    best = min(replays, key=lambda r: r.total_seconds)
    assert text.startswith(f"{best.policy} reached a balancedness of 0.")
    assert "takes the least time in all" in text
    for replay in replays:
        assert f"</span>{replay.policy}</th>" in page  # none has an option
        assert f"<td>{replay.moves.sum():,}</td>" in page


def test_ours_is_what_the_answer_is_about(trace, tmp_path):
    policies = [renamed("evenload", "every-4:greedy"), "never", "deepseek"]
    story = Story(small_replays(trace, policies), trace)
    share = story.rows[0]["moves"] / story.rows[2]["moves"]
    assert re.match(
        rf"evenload reached a balancedness of 0\.\d+ of the oracle's 0\.\d+, "
        rf"with {100 * share:.0f}% of the moves of deepseek, which reached 0\.\d+\. "
        r"(Moving included, evenload takes .* than never moving\. )?\w+ takes the least time",
        story.answer,
    )


def test_names_cannot_break_out(trace, tmp_path):
    path = tmp_path / "page.html"
    loads = Trace([trace.window(t) for t in range(WINDOWS)], source=f"/data/{EVIL}.npz")
    replays = small_replays(loads, [renamed(EVIL, "deepseek"), "never"], oracle=None)
    write_page(replays, loads, path)
    page = path.read_text(encoding="utf-8")
    outline = Outline(page)
    assert len(outline.scripts) == 3
    assert not [attrs for tag, attrs in outline.elements if tag == "img" or "onerror" in attrs]
    # Plotly reads some HTML in names, so it gets them escaped.
    assert next(iter(lines(outline.data, "balance"))).startswith("&lt;/script&gt;")
    assert "oracle" not in lines(outline.data, "balance")
    assert "alert(2)&gt;" in page


def test_the_same_replays_give_the_same_bytes(page, trace, replays, tmp_path):
    again = tmp_path / "again.html"
    write_page(replays, trace, again)
    assert again.read_text(encoding="utf-8") == page


def test_a_long_replay_on_many_gpus_stays_small(tmp_path, monkeypatch):
    from evenload.report import story

    monkeypatch.setattr(story, "MAP_BYTES", 2000)
    monkeypatch.setattr(story, "MOST_POINTS", 10)
    monkeypatch.setattr(story, "MOST_COLUMNS", 5)
    trace = small_trace(windows=81)
    replays = small_replays(trace, ["deepseek"], oracle=None)
    path = tmp_path / "page.html"
    write_page(replays, trace, path)
    page = path.read_text(encoding="utf-8")
    data = Outline(page).data
    shown = data["loads"]["windows"]
    assert (shown[0], shown[-1]) == (1, 80)
    assert sum(map(len, data["loads"]["maps"])) <= 2000
    assert f"The slider has {len(shown)} of the 80 windows served, evenly spaced" in page
    assert "Every point is the mean of 8 windows that follow each other." in page
    assert "Every column is the mean of 16 windows that follow each other." in page
    means = replays[0].balancedness.mean(axis=1).reshape(10, 8).mean(axis=1)
    assert np.allclose(lines(data, "balance")["deepseek"][0]["y"], means, atol=5.1e-5)
    start = Placement(replays[0].placements[0], replays[0].cluster, EXPERTS)
    worst = min(start.balancedness(trace.window(w)).mean() for w in range(1, 81))
    assert re.search(rf'class="start">.*?</td><td>{down(worst, 4)}</td>', page)
    moved, _, marks = lines(data, "moving")["deepseek"]
    assert moved["y"][-1] == replays[0].moves.sum()
    assert sum(int(moves.replace(",", "")) for moves, *_ in marks["customdata"]) == moved["y"][-1]


def test_gpus_that_are_gone_are_gaps(trace, tmp_path):
    cluster = Cluster(4, slots_per_gpu=8, alive=[True, False, True, True])
    replays = small_replays(trace, ["deepseek"], cluster, oracle=None)
    write_page(replays, trace, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    loads = Outline(page).data["loads"]
    maps = unpack(loads["maps"][1], loads["step"]).reshape(-1, LAYERS, 4)
    assert np.isnan(maps[:, :, 1]).all()
    assert not np.isnan(maps[:, :, [0, 2, 3]]).any()
    assert "4 on 1 node, 1 gone" in page


def test_one_window_alone_is_seen(tmp_path):
    """A line of one point needs a mark, and few GPUs or layers no ticks between them."""
    trace = small_trace(windows=2)
    replays = small_replays(trace, ["deepseek", "never"], oracle=None)
    write_page(replays, trace, tmp_path / "page.html")
    data = Outline((tmp_path / "page.html").read_text(encoding="utf-8")).data
    for figure in ("balance", "moving"):
        for name, (line, *_) in lines(data, figure).items():
            assert (line["mode"], len(line["x"])) == ("lines+markers", 1), name
    layout = data["figures"]["loads-left-chart"]["layout"]
    assert (layout["xaxis"]["dtick"], layout["yaxis"]["dtick"]) == (1, 1)


# ---- what is refused -------------------------------------------------------------------------


def refused(replays, trace, message, path="page.html"):
    with pytest.raises(ValueError, match=message):
        write_page(replays, trace, path)


def test_what_is_no_page(trace, replays, tmp_path):
    refused(replays, trace, r"page\.pdf: pages with the ending '\.pdf'", tmp_path / "page.pdf")
    refused(replays, trace, r"page: pages with no ending .* use one of \.html", tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_replays_that_do_not_go_together(trace, replays):
    refused([], trace, "replays is empty; use at least one replay")
    refused(
        [replays[0], replays[0]], trace, "'never' is there 2 times under dispatch 'even'; use each"
    )
    other = small_replays(trace, ["deepseek"], Cluster(4, num_slots=20))
    refused([replays[0], *other], trace, "'never' has cluster=.*'deepseek' cluster=")
    other = small_replays(trace, ["deepseek"], merge=2)
    refused([replays[0], *other], trace, "'never' has merge=1, and 'deepseek' merge=2; use")
    other = small_replays(trace, ["deepseek"], warm_start=3)
    refused([replays[0], *other], trace, r"served 12 windows \(1 to 12\).* 10 windows \(3 to 12\)")
    lost = small_replays(trace, ["deepseek"], keep_placements=False)
    refused(lost, trace, "has kept 1 of its .* replay with keep_placements=True")


def test_a_trace_that_is_not_theirs(trace, replays):
    load = np.stack([trace.window(t) for t in range(WINDOWS)])
    refused(replays, Trace(load[:, :2]), "trace has 2 layers x 16 experts, and the replays 3 x 16")
    refused(replays, Trace(load[:, :, :15]), "trace has 3 layers x 15 experts")
    refused(replays, Trace(load[:-1]), "trace has 12 windows, and the replays served 13")


def test_nothing_is_left_where_writing_fails(trace, replays, tmp_path):
    with pytest.raises(OSError, match="none"):
        write_page(replays, trace, tmp_path / "none" / "page.html")
    assert not list(tmp_path.iterdir())


# ---- its parts -------------------------------------------------------------------------------


def test_packing():
    values = np.array([0.0, 1.0, 0.1234567, 65.0, np.nan])
    step = step_for(65.0)
    assert step == 1e-3
    back = unpack(pack(values, step), step)
    assert np.isnan(back[-1])
    assert np.abs(back[:-1] - values[:-1]).max() <= step / 2
    wide = step_for(1000.0)
    assert unpack(pack(np.array([1000.0]), wide), wide)[0] == pytest.approx(1000.0)
    assert round(1000.0 / wide) < GAP


@pytest.mark.parametrize(("num", "most"), [(1, 5), (5, 5), (6, 5), (1000, 120), (121, 120)])
def test_thinning_out(num, most):
    chosen = spaced(num, most)
    assert len(chosen) == min(num, most)
    assert (chosen[0], chosen[-1]) == (0, num - 1)
    runs = Runs(np.arange(num), most)
    assert runs.sizes.sum() == num
    assert len(runs.sizes) == min(num, most)
    assert runs.sizes.max() - runs.sizes.min() <= 1
    values = np.random.default_rng(0).random((num, 3))
    assert np.allclose((runs.mean(values) * runs.sizes[:, None]).sum(axis=0), values.sum(axis=0))
    assert (runs.last(values)[-1] == values[-1]).all()


def test_labels_keep_out_of_each_others_way():
    points = [(100.0, 100.0), (104.0, 101.0), (880.0, 100.0)]
    frame = (900.0, 300.0)
    places = place_labels(points, ["first", "second", "at the edge"], frame)
    assert set(places) <= set(PLACES)
    assert places[0] != places[1]
    assert "right" not in places[2]
    assert places[0] != "middle right"  # where the second point is


def test_pictures(trace, replays, tmp_path):
    pytest.importorskip("matplotlib")
    evil = [replays[0], replace(replays[3], policy=f"$x_{{ {EVIL}")]
    folder = tmp_path / "a" / "b"
    written = write_figures(evil, trace, folder)
    names = ["tradeoff.png", "balance.png", "moving.png", "loads.png", "hot.png"]
    assert [path.name for path in written] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert len(list(folder.iterdir())) == 5
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: this is a file; give a folder"):
        write_figures(replays, trace, tmp_path / "file")
