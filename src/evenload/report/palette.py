"""Colours of the page and its pictures, and what tells policies apart: colour, mark and dash.

The policies' colours began as those of Okabe and Ito (Color Universal Design, 2008) and were moved
apart by search: also with protanopia, deuteranopia or tritanopia (simulated after Machado et al.,
2009) no two are nearer than 15 in CIELAB, and each has a contrast of 3 to 1 with its paper, white
or near black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

LIGHT = ["#0072B2", "#BF7A6D", "#0A5E31", "#C53F7E", "#918428", "#29A0B1", "#3E020B", "#393F43"]
DARK = ["#5CB6F0", "#FBC795", "#34A377", "#DA54BA", "#E6AF18", "#70ECFB", "#F9443B", "#A5B2B9"]
# Plotly's marks, as matplotlib calls them, and as the page's table draws them in a box of 22 by 11.
MARKS = {
    "circle": ("o", "M11 1.5a4 4 0 1 0 .001 0z"),
    "square": ("s", "M7 1.7h7.6v7.6H7z"),
    "diamond": ("D", "M11 .5l5 5-5 5-5-5z"),
    "triangle-up": ("^", "M11 1l4.8 8.5H6.2z"),
    "x": ("X", "M7.5 1L11 4.3 14.5 1 16 2.6 12.7 5.5 16 8.6 14.5 10 11 6.8 7.5 10 6 8.6 9.3 5.5 6 "
          "2.6z"),
    "cross": ("P", "M9.5 1h3v3h3v3h-3v3h-3V7h-3V4h3z"),
    "star": ("*", "M11 .3l1.5 3.5 3.7.3-2.8 2.5.9 3.7L11 8.3l-3.3 2 .9-3.7-2.8-2.5 3.7-.3z"),
    "triangle-down": ("v", "M11 10L6.2 1.5h9.6z"),
}  # fmt: skip
# Plotly's dashes, as matplotlib calls them, and as SVG has them.
DASHES = {
    "solid": ("-", ""),
    "dash": ("--", "6 3"),
    "dot": (":", "2 3"),
    "dashdot": ("-.", "6 2 2 2"),
}

FEW_POINTS = 40  # of a line, up to which each has a mark, so that one alone is seen


class Style(NamedTuple):
    """How a policy is drawn, in plotly's words; `colour` indexes `LIGHT` and `DARK`."""

    colour: int
    mark: str
    dash: str
    width: int


def styles(count: int, hero: int) -> tuple[Style, ...]:
    """Return the style of each policy; the hero has the first, solid and wide.

    Colours repeat after eight policies; then the dash tells them apart.
    """
    marks, dashes, made = list(MARKS), list(DASHES), {}
    for rank, policy in enumerate([hero, *(i for i in range(count) if i != hero)]):
        number, again = rank % len(LIGHT), rank // len(LIGHT)
        mark, dash = marks[rank % len(marks)], dashes[again % len(dashes)]
        made[policy] = Style(number, mark, dash, width=3 if policy == hero else 2)
    return tuple(made[i] for i in range(count))


# ---- the page's colours, light and dark ------------------------------------------------------

STEPS = 5  # of a scale of colours
# Evenness from little to much load: both ends far from the paper, the middle, which is even, near.
PAGE: Mapping[str, Mapping[str, str | Sequence[str]]] = {
    "light": {
        "paper": "#ffffff", "ink": "#1c2127", "quiet": "#59626d", "faint": "#e6e9ed",
        "wash": "#f6f7f9", "accent": "#0072b2", "focus": "#0072b2", "policy": LIGHT,
        "evenness": ("#2166ac", "#8dbbdc", "#f7f7f5", "#f0a46f", "#b03a06"),
        "heat": ("#f4f6f9", "#c3d7ea", "#76a9d3", "#2a6fa9", "#0b2f55"),
    },
    "dark": {
        "paper": "#14171b", "ink": "#e4e7eb", "quiet": "#9ba5b1", "faint": "#2b3138",
        "wash": "#1b1f25", "accent": "#5cb6f0", "focus": "#5cb6f0", "policy": DARK,
        "evenness": ("#7fc4ff", "#2d6ea3", "#22272e", "#b85c1c", "#ffb27a"),
        "heat": ("#1d232b", "#1f4468", "#2f76ae", "#74b6e6", "#e9f6ff"),
    },
}  # fmt: skip


def variables(mode: str) -> dict[str, str]:
    """Return the page's CSS variables, as ``--ink`` or ``--policy-0``, and their colours."""
    found = {}
    for name, colours in PAGE[mode].items():
        if isinstance(colours, str):
            found[f"--{name}"] = colours
        else:
            found |= {f"--{name}-{i}": colour for i, colour in enumerate(colours)}
    return found


def css() -> str:
    """Return the page's colours as CSS, light and dark."""
    light, dark = (
        f":root {{ {' '.join(f'{name}: {colour};' for name, colour in variables(mode).items())} }}"
        for mode in PAGE
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"
