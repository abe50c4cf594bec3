"""Write the figures of a replay's page as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenload.io import replace_file
from evenload.report.heatmap import check_plot_path
from evenload.report.page.story import tell

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace


def check_figures_folder(folder: str | os.PathLike[str]) -> None:
    """Raise before any work is done where pictures could not be written.

    Raises
    ------
    ValueError
        If there is a file where the folder should be, or matplotlib is not installed.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"{folder}: this is a file; give a folder")
    check_plot_path("figure.png")


def write_figures(
    replays: Sequence[Replay], trace: Trace, folder: str | os.PathLike[str]
) -> list[Path]:
    """Write the figures of the page as PNG for papers, on white and at 200 dots an inch.

    They are ``tradeoff.png``, ``balance.png``, ``moving.png``, ``loads.png`` (the last window, with
    the starting placement and the policy that the page's answer is about) and ``hot.png`` (the
    layer whose hot experts change most).

    Parameters
    ----------
    replays, trace
        As `write_page`.
    folder : path-like
        Made where it is not there; each picture appears in it whole or not at all.

    Returns
    -------
    list of Path
        The pictures.

    Raises
    ------
    ValueError
        As `write_page`, and if matplotlib is not installed (``pip install 'evenload[plot]'``).
    OSError
        If a file cannot be written.
    """
    from evenload.report.page.pictures.balance import draw_balance
    from evenload.report.page.pictures.hot import draw_hot
    from evenload.report.page.pictures.loads import draw_loads
    from evenload.report.page.pictures.moving import draw_moving
    from evenload.report.page.pictures.tradeoff import draw_tradeoff

    check_figures_folder(folder)
    story = tell(replays, trace)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for draw in (draw_tradeoff, draw_balance, draw_moving, draw_loads, draw_hot):
        path = place / f"{draw.__name__.removeprefix('draw_')}.png"
        with replace_file(path) as stream:
            draw(story).savefig(stream, format="png")
        written.append(path)
    return written
