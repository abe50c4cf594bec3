"""A few policies on a few clusters, side by side: five sentences, and one picture over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evenload.report.palette import PAGE, variables
from evenload.report.policies import total_seconds
from evenload.report.text import down, show_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.cluster import Cluster
    from evenload.replay import Replay

# What the demo compares: the policy and the dispatch that `replay` takes, by the name it is shown
# under. A planner has a colour, and a live split a dashed line.
NEVER, DEEPSEEK, DEEPSEEK_LIVE, EVEN, LIVE = (
    "never moved", "DeepSeek's planner", "DeepSeek's planner, live split",
    "evenload", "evenload, live split",
)  # fmt: skip
POLICIES = {
    NEVER: ("never", "even"),
    DEEPSEEK: ("deepseek", "even"),
    DEEPSEEK_LIVE: ("deepseek", "live"),
    EVEN: ("evenload", "even"),
    LIVE: ("evenload", "live"),
}
_COLOURS = {"never": 7, "deepseek": 1, "evenload": 0}


class Panel(NamedTuple):
    """The replays on one cluster, by the name that each is shown under."""

    cluster: Cluster
    replays: Mapping[str, Replay]

    @property
    def title(self) -> str:
        """GPUs and slots."""
        return f"{self.cluster.num_gpus} GPUs, {self.cluster.slots_per_gpu} slots per GPU"


def course_lines(panels: tuple[Panel, Panel]) -> list[str]:
    """Return what the replays came to, in five sentences that explain their words."""
    few, wide = panels
    rows = {name: replay.figures() for name, replay in few.replays.items()}
    far = {name: replay.figures() for name, replay in wide.replays.items()}

    def reached(row: Mapping[str, Any]) -> str:
        return f"{down(row['balancedness'], 3)}, {total_seconds(row):.1f} s"

    def moved(row: Mapping[str, Any]) -> str:
        return f"{row['moves']:,} moves"

    windows, layers = few.replays[NEVER].balancedness.shape
    part = far[LIVE]["moves"] / far[DEEPSEEK]["moves"]
    return [
        f"Traffic drifts over {windows} windows, and each of {layers} layers waits for its busiest "
        f"GPU: on {few.cluster.num_gpus} GPUs that takes {total_seconds(rows[NEVER]):.1f} s"
        " if no expert ever moves. Balancedness (mean GPU load / largest; 1 is best) is "
        f"{down(rows[NEVER]['balancedness'], 3)}.",
        f"DeepSeek's planner, called in every window: balancedness {reached(rows[DEEPSEEK])} with "
        f"{moved(rows[DEEPSEEK])} (an expert's weights sent to a GPU).",
        f"evenload, which starts from what runs: {reached(rows[EVEN])} with {moved(rows[EVEN])}.",
        "evenload with a live split (each batch's tokens go to the replicas whose GPUs are least "
        f"busy): {reached(rows[LIVE])} with {moved(rows[LIVE])}; DeepSeek's planner with the same "
        f"split: {reached(rows[DEEPSEEK_LIVE])}.",
        f"Wide, {wide.title}: never moved {reached(far[NEVER])}; DeepSeek's planner "
        f"{reached(far[DEEPSEEK])}; evenload with a live split {reached(far[LIVE])}, with "
        f"{part:.0%} of the moves.",
    ]


def draw_courses(panels: tuple[Panel, ...], mode: str = "light") -> Figure:
    """Draw balancedness, moves and lost time over windows: one column a cluster.

    What is never moved is far below the others, and is told in words, so that these can be told
    apart. `mode` is ``"light"`` or ``"dark"``. The figure is not registered with pyplot.
    """
    from matplotlib.figure import Figure

    colours = variables(mode)
    figure = Figure(figsize=(11.0, 7.8), dpi=120, layout="constrained")
    figure.set_facecolor(colours["--paper"])
    rows = figure.subplots(3, len(panels), squeeze=False, height_ratios=(1.2, 1.0, 0.75))
    for column, panel in enumerate(panels):
        balance, moves, seconds = rows[:, column]
        for name, replay in panel.replays.items():
            how, windows = _line(name, mode), replay.windows - replay.windows[0] + 1
            moved = np.zeros(len(windows), np.int64)
            at = np.searchsorted(replay.windows, replay.rebalance_window)
            np.add.at(moved, at, replay.moves.sum(axis=1))
            if name == NEVER:
                place = {"transform": balance.transAxes, "va": "bottom", "ha": "right"}
                told = f"{NEVER}: {down(replay.balancedness.mean(), 2)}, far below"
                balance.text(0.99, 0.02, told, fontsize=10, color=colours["--ink"], **place)
            else:
                balance.plot(windows, replay.balancedness.mean(axis=1), label=name, **how)
                moves.plot(windows, moved.cumsum() / 1e3, **how)
        _draw_seconds(seconds, panel, mode, names=not column)
        balance.set_title(_headline(panel), loc="left", fontsize=11, color=colours["--ink"])
        low = balance.get_ylim()[0]
        balance.set_ylim(low - 0.12 * (1.0 - low), 1.0)  # room for the words
        moves.set_ylim(0.0, None)
        moves.set_xlabel("window")
        if column == 0:
            balance.set_ylabel("balancedness\n(1: GPUs equally busy)")
            moves.set_ylabel("experts moved\nso far, thousands")
        for axes in (balance, moves, seconds):
            _plain(axes, colours)
    handles, names = rows[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=len(names),
        frameon=False, fontsize=10.5, handlelength=3, labelcolor=colours["--ink"],
    )  # fmt: skip
    return figure


def lost_seconds(replay: Replay) -> tuple[float, float]:
    """Return the seconds that GPUs waited for the busiest, and that serving waited for moves."""
    waited = float(replay.straggler_seconds.sum() - replay.mean_seconds.sum())
    return waited, float(replay.move_seconds.sum())


def _headline(panel: Panel) -> str:
    ours, theirs = panel.replays[LIVE], panel.replays[DEEPSEEK]
    lost = sum(lost_seconds(ours)) / sum(lost_seconds(theirs))
    moves = int(ours.moves.sum()) / int(theirs.moves.sum())
    size = panel.title.replace(" ", "\\ ")
    return (
        f"$\\bf{{{size}}}$\n{LIVE}: {lost:.0%} of the lost time\nand {moves:.0%} of the moves of "
        f"{DEEPSEEK}"
    )


def _line(name: str, mode: str) -> dict[str, Any]:
    policy, dispatch = POLICIES[name]
    return {
        "color": PAGE[mode]["policy"][_COLOURS[policy]],
        "linestyle": "--" if dispatch == "live" else "-",
        "linewidth": 2.6 if policy == "evenload" else 1.8,
        "marker": "o", "markersize": 3.5,
    }  # fmt: skip


def _draw_seconds(axes: Any, panel: Panel, mode: str, names: bool) -> None:
    """Draw bars of the time lost: waiting for the busiest GPU, and for moves, which is paler."""
    ink, shown = PAGE[mode]["ink"], [name for name in panel.replays if name != NEVER]
    longest = max(sum(lost_seconds(panel.replays[name])) for name in shown)
    for place, name in enumerate(shown):
        waited, moving = lost_seconds(panel.replays[name])
        bar = {"color": _line(name, mode)["color"], "height": 0.7}
        axes.barh(place, waited, **bar)
        axes.barh(place, moving, left=waited, alpha=0.45, **bar)
        at, told = waited + moving + 0.015 * longest, show_seconds(waited + moving)
        axes.text(at, place, told, va="center", fontsize=10, color=ink)
    axes.set_yticks(range(len(shown)), shown if names else [""] * len(shown))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * longest)
    never = sum(lost_seconds(panel.replays[NEVER]))
    ideal = float(panel.replays[NEVER].mean_seconds.sum())
    axes.set_xlabel(
        f"seconds lost beyond {show_seconds(ideal)} of computing\n"
        f"(pale: to moves; {NEVER}: {show_seconds(never)})"
    )


def _plain(axes: Any, colours: Mapping[str, str]) -> None:
    """Keep frame and ticks out of the way."""
    axes.set_facecolor(colours["--paper"])
    axes.grid(axis="x" if axes.patches else "y", color=colours["--faint"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours["--faint"])
    axes.tick_params(colors=colours["--quiet"], labelcolor=colours["--ink"])
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(colours["--ink"])
