"""The table of policies, and those of settings, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evenload.report.digits import down, percent_down, percent_up
from evenload.report.page.answer import regret
from evenload.report.page.score import Score
from evenload.report.page.story import Story
from evenload.report.page.units import show_bytes, show_seconds

_HEADS = (
    ("Policy", "What decides when experts move, and where to"),
    ("Balance&shy;dedness", "Mean over heaviest GPU load, mean over windows and layers; 1 is best"),
    ("Worst window", "The least balancedness of any window, mean over layers"),
    ("Below oracle", "How much more the oracle reached, which knows every window beforehand"),
    ("Rebalances paid", "Those that saved more time than their moves took"),
    ("Experts moved", "In all layers, over the whole replay"),
    ("Data moved", "Weights that crossed a link"),
    ("Standing still", "Time that serving stood still for moves"),
    ("Time to decide", "By the clock, mean of all decisions; it enters nothing else"),
    (
        "Time in all",
        "Until the last GPUs are done, and standing still, against the starting placement",
    ),
)


def _change(seconds: float, start: float) -> str:
    """Show how much more or less time that is, a gain cut off and a loss rounded up."""
    change = seconds / start - 1.0
    if abs(change) < 5e-4:
        return "&plusmn;0.0%"
    return f"&minus;{percent_down(-change)}" if change < 0.0 else f"+{percent_up(change, 1)}"


def _cells(score: Score, start_seconds: float) -> list[str]:
    count = score.rebalances
    return [
        down(score.balancedness, 4),
        down(score.worst_window, 4),
        regret(score) or "&ndash;",
        f"{score.paid:,} of {count:,}" if count else "&ndash;",
        f"{score.moves:,}",
        show_bytes(score.bytes_moved),
        show_seconds(score.move_seconds),
        "&ndash;" if score.plan_seconds is None else show_seconds(score.plan_seconds),
        _change(score.seconds, start_seconds),
    ]


def _name(name: str) -> str:
    """Write a policy's name, which may be broken between its options."""
    return escape(name).replace(",", ",<wbr>")


def _row(head: str, cells: Sequence[str], kind: str = "") -> str:
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{kind}><th scope="row">{head}</th>{body}</tr>'


def summary_table(story: Story) -> str:
    """Return the table of policies, a row each, and one for the placement at the start."""
    heads = "".join(
        f'<th scope="col" title="{escape(why, quote=True)}">{name}</th>' for name, why in _HEADS
    )
    rows = []
    for index, score in enumerate(story.scores):
        swatch = f'<span class="swatch" data-policy="{index}" aria-hidden="true"></span>'
        kind = ' class="hero"' if index == story.hero and len(story.scores) > 1 else ""
        rows.append(
            _row(swatch + _name(score.name), _cells(score, story.start_seconds), kind),
        )
    if story.shows_start:
        rows.append(_start_row(story))
    return (
        '<table class="policies"><caption class="hidden">What each policy came to</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _start_row(story: Story) -> str:
    start = [down(story.start_balancedness, 4), down(float(story.start.mean.min()), 4)]
    nothing = ["&ndash;", "&ndash;", "0", "0 B", "0 s", "&ndash;", "&plusmn;0.0%"]
    swatch = '<span class="swatch" data-policy="start" aria-hidden="true"></span>'
    return _row(f"{swatch}starting placement", start + nothing, ' class="start"')


def settings_tables(story: Story) -> str:
    """Return the settings that all replays share as a list, and the others as a table."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in story.settings.items()
    )
    shared = f'<dl class="settings">{items}</dl>'
    if not story.own_settings:
        return shared
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in story.own_settings)
    columns = list(story.own_settings.values())
    rows = "".join(
        _row(_name(score.name), [escape(column[index]) or "&ndash;" for column in columns])
        for index, score in enumerate(story.scores)
    )
    return (
        f'{shared}<div class="scroll" tabindex="0" role="region" aria-label="Settings of each '
        'policy"><table class="own"><caption>What differs between the policies</caption><thead>'
        f'<tr><th scope="col">Policy</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
