"""The picture and the sentences of `evenload demo`."""

import numpy as np
import pytest

from evenload.cli import demo
from evenload.report.courses import DEEPSEEK, LIVE, NEVER, POLICIES, course_lines, draw_courses
from evenload.report.courses import lost_seconds as lost
from evenload.report.palette import PAGE


@pytest.fixture(scope="module")
def panels():
    with pytest.MonkeyPatch.context() as patch:
        for name, few in (("WINDOWS", 3), ("LAYERS", 2), ("CLUSTERS", ((32, 4, 9), (64, 8, 5)))):
            patch.setattr(f"evenload.cli.demo._{name}", few)
        return demo.followed(demo.made_up(0))


def test_lost_time_is_what_perfect_balance_without_moves_would_save(panels) -> None:
    for panel in panels:
        ideal = panel.replays[NEVER].mean_seconds.sum()
        for replay in panel.replays.values():
            assert sum(lost(replay)) == pytest.approx(replay.figures()["total_seconds"] - ideal)


def test_sentences_have_the_figures_of_the_replays(panels) -> None:
    lines = course_lines(panels)
    assert len(lines) == 5
    moves = panels[0].replays[DEEPSEEK].moves.sum()
    assert f"{moves:,} moves" in lines[1]
    part = panels[1].replays[LIVE].moves.sum() / panels[1].replays[DEEPSEEK].moves.sum()
    assert lines[4].endswith(f"with {part:.0%} of the moves.")


@pytest.mark.parametrize("mode", PAGE)
def test_a_planner_has_one_colour_and_a_live_split_is_dashed(panels, mode) -> None:
    colors = pytest.importorskip("matplotlib.colors")
    figure = draw_courses(panels, mode)
    assert figure.get_facecolor() == colors.to_rgba(PAGE[mode]["paper"])
    balance, _, moves, *_ = figure.axes
    for axes in (balance, moves):
        lines = axes.get_lines()
        assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]
        theirs, theirs_live, ours, ours_live = (line.get_color() for line in lines)
        assert theirs == theirs_live != ours == ours_live
    for line, (name, replay) in zip(
        moves.get_lines(), list(panels[0].replays.items())[1:], strict=True
    ):
        assert line.get_ydata()[-1] == pytest.approx(replay.moves.sum() / 1e3)
        assert np.all(np.diff(line.get_ydata()) >= 0), name
    assert len(POLICIES) == len(moves.get_lines()) + 1  # what is never moved is told in words
