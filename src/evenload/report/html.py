"""What notebooks show of plans and replays: small tables and heat maps, as HTML that needs nothing.

A heat map is a picture of one pixel a number, enlarged by the browser.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evenload.report.figures import balance_words, colour_limit, plan_summaries
from evenload.report.palette import PAGE
from evenload.report.policies import FIGURES
from evenload.report.tables import report_rows

if TYPE_CHECKING:
    from evenload.plan import Plan
    from evenload.replay import Replay

MOST_PIXELS = 1000  # of a side
_GONE = (128, 128, 128)  # a GPU that is not alive


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture [rows, columns, 3] of red, green and blue as the bytes of a PNG."""
    rows, columns, _ = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def coloured(part: NDArray[np.float64], colours: Sequence[str]) -> NDArray[np.uint8]:
    """Colour numbers from 0 to 1, NaN where there is none: [rows, columns] -> [..., 3]."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours])
    at = np.linspace(0.0, 1.0, len(stops))
    mixed = np.stack([np.interp(part, at, stops[:, i]) for i in range(3)], axis=-1)
    mixed[np.isnan(part)] = _GONE
    return mixed.round().astype(np.uint8)


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = [-(-length // MOST_PIXELS) for length in values.shape]
    return values[:: steps[0], :: steps[1]]


def _heat(name: str, says: str, part: NDArray[np.float64], colours: str) -> str:
    """Return a heat map of numbers from 0 to 1 under its name."""
    shown = coloured(_thinned(part), [str(colour) for colour in PAGE["light"][colours]])
    told = escape(says).replace("\n", "<br>")
    return (
        '<figure style="display:inline-block;margin:0.5em 1.5em 0.5em 0">'
        f"<figcaption><b>{escape(name)}</b><br>{told}</figcaption>"
        f'<img alt="{escape(f"{name}: {says}")}" style="width:320px;height:220px;'
        "border:1px solid #8888;"
        f'image-rendering:pixelated" src="data:image/png;base64,{b64encode(png(shown)).decode()}">'
        "</figure>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        texts = (escape(cell).replace("\n", "<br>") for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"

    body = "".join(line("td", cells) for cells in rows)
    return f"<table><thead>{line('th', heads)}</thead><tbody>{body}</tbody></table>"


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def plan_html(plan: Plan) -> str:
    """Show a plan beside what ran before, or experts in order: figures, and loads of GPUs."""
    title, summaries = plan_summaries(plan)
    limit = colour_limit(s.relative_load for s in summaries)
    maps = []
    for s in summaries:
        with np.errstate(divide="ignore"):  # a GPU without load takes the lowest colour
            part = 0.5 + 0.5 * np.log(s.relative_load) / np.log(limit)
        maps.append(_heat(s.name, balance_words(s), np.clip(part, 0.0, 1.0), "evenness"))
    legend = (
        f"Rows are layers, columns GPUs: blue has little load, {1 / limit:.2f} of its layer's mean "
        f"or less; white has the mean; red has much, {limit:.2f} of it or more."
    )
    heads, rows = report_rows(summaries)
    parts = [f"<p>{escape(title)}; solver {escape(plan.solver)}: {escape(plan.reason)}</p>"]
    parts += [_table(heads, rows), *maps, f"<p>{legend}</p>", _notes(plan.notes)]
    return f"<div>{''.join(parts)}</div>"


def replay_html(replay: Replay) -> str:
    """Show a replay: its figures, and how balanced each layer was in each window."""
    row = replay.figures()
    cells = [(figure.head.replace("\n", " "), figure.show(row)) for figure in FIGURES]
    reached = replay.balancedness.T
    low = float(reached.min())
    part = (reached - low) / (1.0 - low) if low < 1.0 else np.ones_like(reached)
    says = f"rows are layers, columns windows; dark is {low:.2f}, the least; white is 1, the best"
    heat = _heat("balancedness", says, 1.0 - part, "heat")
    first = f"{replay.policy} over {row['num_windows']} windows on {replay.cluster}"
    notes = _notes((*replay.copy_advice, *replay.notes))
    return f"<div><p>{escape(first)}</p>{_table(('figure', ''), cells)}{heat}{notes}</div>"
