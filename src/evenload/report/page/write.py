"""Write the page of a replay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evenload.io import replace_file
from evenload.report.page.check import check_page_path
from evenload.report.page.document import document
from evenload.report.page.story import tell

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace


def write_page(replays: Sequence[Replay], trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write one HTML file that shows what policies made of a trace, and opens offline.

    The same replays give the same bytes with one version of plotly. Windows on the slider and
    points of lines are thinned out where they are many, by rules that the page states, so that the
    file stays near 5 MB for plotly and 5 MB for the rest.

    Parameters
    ----------
    replays : sequence of Replay
        At least one; of one trace, over the same windows, on one cluster, each policy once.
    trace : Trace
        The trace they served; walked over once, window by window.
    path : path-like
        Ends in .html or .htm. Appears whole or not at all.

    Raises
    ------
    ValueError
        If the replays cannot be laid side by side, the trace is not theirs, the ending is another,
        or plotly is not installed (``pip install 'evenload[report]'``).
    OSError
        If the file cannot be written.
    """
    check_page_path(path)
    text = document(tell(replays, trace))
    with replace_file(path) as stream:
        stream.write(text.encode("utf-8"))
