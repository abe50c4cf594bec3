"""The page of a replay: one HTML file that opens offline, and the same figures as pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from evenload.extras import needed
from evenload.io import replace_file
from evenload.replay import Replay
from evenload.report import charts, figures, palette, text, words
from evenload.report.policies import FIGURES, NONE
from evenload.report.story import Story
from evenload.trace import Trace

SUFFIXES = (".html", ".htm")
_NONE = "&ndash;"


def check_page_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a page can be made: .html or .htm, and plotly is installed."""
    text.check_ending(path, SUFFIXES, "pages with {} are not known")
    needed("plotly", "plotly", "report", "a page")


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
        or plotly is not installed (extra ``report``).
    OSError
        If the file cannot be written.
    """
    check_page_path(path)
    document = _document(Story(replays, trace), trace).encode("utf-8")
    with replace_file(path) as stream:
        stream.write(document)


def check_figures_folder(folder: str | os.PathLike[str]) -> None:
    """Raise `ValueError` where a file is in the folder's place, or matplotlib is not installed."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"{folder}: this is a file; give a folder")
    figures.check_plot_path("figure.png")


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
        As `write_page`, and if matplotlib is not installed (extra ``plot``).
    OSError
        If a file cannot be written.
    """
    check_figures_folder(folder)
    story, written = Story(replays, trace), []
    panels = []
    for number, name in ((0, "starting placement"), (story.hero + 1, story.names[story.hero])):
        each = 1.0 / np.nanmax(story.maps[number, -1], axis=1)
        says = f"balancedness {each.mean():.3f}, worst layer {each.min():.3f}"
        panels.append((name, story.maps[number, -1], says))
    title, colours = f"window {story.windows[-1]}", figures.colour_map("evenness")
    drawn = {n: figures.draw_chart(chart, height) for n, chart, height in charts.stills(story)}
    drawn["loads"] = figures.draw_maps(title, panels, story.num_nodes, colours, dpi=200)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in ("tradeoff", "balance", "moving", "loads", "hot"):
        written.append(Path(folder) / f"{name}.png")
        figures.save_figure(written[-1], drawn[name])
    return written


# ---- the document ----------------------------------------------------------------------------


def _safe_json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in; NaN is refused."""
    data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return data.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def _safe_script(code: str) -> str:
    """Keep code from ending the script element it stands in; inside its texts this is the same."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _document(story: Story, trace: Trace) -> str:
    """Return the whole page.

    A policy of content security in it forbids every request, so that it stays as it is offline.
    """
    from plotly.offline import get_plotlyjs

    shown, num, limit = len(story.shown), len(story.windows), story.colour_limit
    slider = (
        f"The slider has {shown:,} of the {num:,} windows served, evenly spaced, the first and the "
        "last among them: all of them would make this file too large."
    )
    if shown == num:
        slider = (
            f"The slider has {'the one window' if num == 1 else f'all {num:,} windows'} served."
        )
    ticks = [
        f'<i style="left:{50.0 + 50.0 * math.log(at) / math.log(limit):.4g}%">{at:g}</i>'
        for at in figures.colour_ticks(limit, apart=5)
    ]
    folder = files("evenload.report")
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(story.title),
        subtitle=escape(words.subtitle(story.replays[0], trace, story.dispatches)),
        answer=escape(story.answer),
        heads=_heads(),
        policies="".join(_rows(story)),
        settings=_settings(story, trace),
        points=story.runs.rule("point"),
        columns=story.columns.rule("column"),
        slider=slider,
        window=shown - 1,
        left=_options(story, 0),
        right=_options(story, story.hero + 1),
        ticks="".join(ticks),
        layers=len(story.hot.experts) - 1,
        layer=story.hot.layer,
        height=charts.moving_height(story),
        colours=palette.css(),
        data=_safe_json(charts.page_data(story)),
        plotly=_safe_script(get_plotlyjs()),
        script=_safe_script((folder / "page.js").read_text(encoding="utf-8")),
    )


def _options(story: Story, chosen: int) -> str:
    names = ["starting placement", *story.names]
    return "".join(
        f'<option value="{i}"{" selected" if i == chosen else ""}>{escape(name)}</option>'
        for i, name in enumerate(names)
    )


# ---- tables ----------------------------------------------------------------------------------


def _swatch(colour: str, dash: str, width: float, mark: str = "") -> str:
    """Draw a piece of a policy's line, with its mark: the table is a legend of all figures."""
    filled = f'<path d="{palette.MARKS[mark][1]}" fill="currentColor"/>' if mark else ""
    return (
        f'<span class="swatch" style="color:var(--{colour})" aria-hidden="true"><svg width="22" '
        'height="11" viewBox="0 0 22 11"><path d="M0 5.5h22" stroke="currentColor" stroke-width='
        f'"{width}" stroke-dasharray="{palette.DASHES[dash][1]}"/>{filled}</svg></span>'
    )


def _row(name: str, cells: Sequence[str], kind: str = "", swatch: str = "") -> str:
    """Return a row of a table; a policy's name may be broken between its options."""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    head = swatch + escape(name).replace(",", ",<wbr>")
    return f'<tr{kind}><th scope="row">{head}</th>{body}</tr>'


def _rows(story: Story) -> Iterator[str]:
    """Return the rows of the table of policies, and one for the placement at the start."""
    for index, (row, style) in enumerate(zip(story.rows, story.styles, strict=True)):
        swatch = _swatch(f"policy-{style.colour}", style.dash, style.width, style.mark)
        cells = [_cell(figure.show(row)) for figure in FIGURES]
        kind = ' class="hero"' if index == story.hero and len(story.rows) > 1 else ""
        yield _row(row["policy"], cells, kind, swatch)
    for level, figures_of in story.kept:
        cells = [_cell(figure.show(figures_of)) for figure in FIGURES]
        swatch = _swatch(level.colour, level.dash, 1.5)
        yield _row(level.name, cells, ' class="start"', swatch)


def _cell(shown: str) -> str:
    return _NONE if shown == NONE else escape(shown).replace("-", "&minus;")


def _heads() -> str:
    """Return the heads of the table of policies."""
    heads = [("policy", "What decides when experts move, and where to")]
    heads += [(figure.head.replace("\n", " "), figure.about) for figure in FIGURES]
    cell = '<th scope="col" title="{}">{}</th>'
    return "".join(cell.format(escape(about), escape(head)) for head, about in heads)


def _settings(story: Story, trace: Trace) -> str:
    """Return the settings that all replays share as a list, and the others as a table."""
    common, own = words.shared_and_own(story.replays, trace)
    item = "<div><dt>{}</dt><dd>{}</dd></div>"
    items = [item.format(escape(name), escape(value)) for name, value in common.items()]
    shared = f'<dl class="settings">{"".join(items)}</dl>'
    if not own:
        return shared
    heads = [f'<th scope="col">{escape(name)}</th>' for name in ("Policy", *own)]
    each = zip(story.rows, *own.values(), strict=True)
    rows = [_row(row["policy"], [escape(v) or _NONE for v in values]) for row, *values in each]
    return (
        f'{shared}<div class="scroll" tabindex="0" role="region" aria-label="Settings of each '
        'policy"><table class="own"><caption>What differs between the policies</caption><thead>'
        f"<tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
