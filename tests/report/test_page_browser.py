"""The page in a real browser: nothing complains, all is drawn, sliders and colours work."""

import json

import pytest
from browser import browser, chromium
from replay_pages import WINDOWS, renamed, small_replays, small_trace

from evenload.report.page import write_page
from evenload.report.palette import PAGE

pytest.importorskip("plotly")

CHARTS = {
    "tradeoff-chart": "scatter",
    "balance-chart": "scatter",
    "moving-chart": "scatter",
    "loads-left-chart": "heatmap",
    "loads-right-chart": "heatmap",
    "hot-chart": "heatmap",
}
EVIL = "</script><b onclick=alert(1)>%{y}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    chromium()
    trace = small_trace()
    policies = ["never", renamed("evenload", "every-4:greedy"), renamed(EVIL, "deepseek")]
    path = tmp_path_factory.mktemp("browser") / "page.html"
    write_page(small_replays(trace, policies), trace, path)
    return path


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def heat(tab, chart):
    return tab.run(f"document.getElementById('{chart}').data[0].customdata")


def text(tab, place):
    return tab.run(f"document.getElementById('{place}').textContent")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1366, 768), (700, 900), (390, 844)])
def test_all_is_drawn_without_complaint(tab, page, tmp_path, dark, width, height):
    tab.events.clear()
    tab.open(page, width, height, dark)
    for chart, kind in CHARTS.items():
        inside = f"document.querySelector('#{chart} .{kind}layer')"
        assert tab.run(f"{inside}.getBoundingClientRect().height") > 100, chart
        # What sticks out of the page would have to be scrolled to.
        box = f"document.getElementById('{chart}').getBoundingClientRect()"
        assert tab.run(f"{box}.right") <= width
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("document.querySelectorAll('.swatch svg').length") == 3
    # Its numbers are chosen for this width.
    bar = "document.querySelector('.scale .bar').getBoundingClientRect().width"
    assert tab.run(bar) >= min(360, width - 32)
    assert tab.run("[...document.querySelectorAll('dd')].filter(d => !d.textContent).length") == 0
    assert tab.complaints() == []
    asked = [url for url in tab.requests() if not url.startswith(("data:", "blob:"))]
    assert asked == [page.resolve().as_uri()]
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_slider_over_windows_by_keyboard(tab, page):
    tab.open(page)
    slider = "document.getElementById('loads-window')"
    tab.run(f"{slider}.focus()")
    assert text(tab, "loads-number") == f"{WINDOWS - 1} (of 1 to {WINDOWS - 1})"
    last = heat(tab, "loads-right-chart")
    tab.press("Home")
    tab.wait_for(f"{slider}.value === '0'")
    assert text(tab, "loads-number") == f"1 (of 1 to {WINDOWS - 1})"
    first = heat(tab, "loads-right-chart")
    assert first != last
    tab.press("ArrowRight")
    tab.wait_for(f"{slider}.value === '1'")
    assert tab.run(f"{slider}.getAttribute('aria-valuetext')") == "window 2"
    assert heat(tab, "loads-right-chart") not in (first, last)
    tab.press("End")
    tab.wait_for(f"{slider}.value === {slider}.max")
    assert heat(tab, "loads-right-chart") == last
    assert text(tab, "loads-right-says").startswith("balancedness 0.")
    assert tab.complaints() == []


def test_any_policy_beside_any(tab, page):
    tab.open(page)
    choose = "(() => { const s = document.getElementById('loads-left'); s.value = '2'; "
    tab.run(f"{choose} s.dispatchEvent(new Event('change')); }})()")
    assert heat(tab, "loads-left-chart") == heat(tab, "loads-right-chart")  # both are ours now


def test_layers_of_hot_experts(tab, page):
    tab.open(page)
    tab.run("document.getElementById('hot-layer').focus()")
    tab.press("Home")
    tab.wait_for("document.getElementById('hot-number').textContent === '0 (of 0 to 2)'")
    data = json.loads(text(tab, "data"))
    rows = tab.run("document.getElementById('hot-chart').data[0].y")
    assert rows == [f"expert {e}" for e in data["hot"]["experts"][0]]


def test_mean_or_worst_layer(tab, page):
    tab.open(page)
    data = json.loads(text(tab, "data"))
    line = "document.getElementById('balance-chart').data[1].y"
    assert tab.run(line) == data["balance"]["mean"][1]
    tab.run("document.querySelector('input[value=worst]').click()")
    assert tab.run(line) == data["balance"]["worst"][1]


def test_figures_follow_the_colours_of_the_page(tab, page):
    tab.open(page)
    color = "document.getElementById('balance-chart').data[2].line.color"
    paper = "getComputedStyle(document.body).backgroundColor"
    before = tab.run(color), tab.run(paper)
    tab.colours(dark=True)
    tab.wait_for(f"{color} !== '{before[0]}'")
    assert tab.run(paper) != before[1]
    tab.colours(dark=False)
    tab.wait_for(f"{color} === '{before[0]}'")


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_is_one_of_the_page(tab, page, dark):
    tab.open(page, dark=dark)
    mode = PAGE["dark" if dark else "light"]
    for chart in CHARTS:
        assert '"--' not in tab.run(
            f"(() => {{ const {{ data, layout }} = document.getElementById('{chart}');"
            " return JSON.stringify([data, layout]); })()"
        )
    for chart, name in (("loads-left", "evenness"), ("hot", "heat")):
        scale = tab.run(f"document.getElementById('{chart}-chart').data[0].colorscale")
        assert [colour for _, colour in scale] == list(mode[name])
    swatches = "[...document.querySelectorAll('.swatch')].map(s => getComputedStyle(s).color)"
    colours = [f"rgb{tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))}" for c in mode["policy"]]
    assert sorted(tab.run(swatches)) == sorted(colours[:3])


def test_playing_goes_through_all_windows(tab, page):
    tab.open(page)
    play = "document.getElementById('loads-play')"
    slider = "document.getElementById('loads-window')"
    tab.run(f"{play}.click()")
    assert tab.run(f"{play}.getAttribute('aria-pressed')") == "true"
    tab.wait_for(f"{slider}.value === {slider}.max")
    tab.wait_for(f"{play}.getAttribute('aria-pressed') === 'false'")


def test_names_are_shown_as_they_are(tab, page):
    tab.open(page)
    legend = "[...document.querySelectorAll('#balance-chart .legendtext')].map(t => t.textContent)"
    shown = tab.run(legend)
    assert shown[:3] == ["oracle", "never", "evenload"]
    assert shown[3].startswith("</script><b")
    assert tab.run("document.querySelector('[onclick]')") is None
    assert tab.complaints() == []
