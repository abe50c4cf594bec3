"""Colours that tell policies apart, also for the colour-blind: with a mark and a dash each.

They began as those of Okabe and Ito (Color Universal Design, 2008) and were moved apart by search:
also with protanopia, deuteranopia or tritanopia (simulated after Machado et al., 2009) no two are
nearer than 15 in CIELAB, and each has a contrast of 3 to 1 with its paper, white or near black.
"""

from __future__ import annotations

LIGHT = (
    "#0072B2",
    "#BF7A6D",
    "#0A5E31",
    "#C53F7E",
    "#918428",
    "#29A0B1",
    "#3E020B",
    "#393F43",
)
DARK = (
    "#5CB6F0",
    "#FBC795",
    "#34A377",
    "#DA54BA",
    "#E6AF18",
    "#70ECFB",
    "#F9443B",
    "#A5B2B9",
)
MARKS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot")


def styles(count: int, hero: int) -> list[dict[str, str | int]]:
    """Return colour, mark and dash of each policy; the hero has the first, solid and wide.

    Colours repeat after eight policies; then the dash tells them apart.
    """
    order = [hero, *(i for i in range(count) if i != hero)]
    rank = {policy: place for place, policy in enumerate(order)}
    return [
        {
            "light": LIGHT[rank[i] % len(LIGHT)],
            "dark": DARK[rank[i] % len(DARK)],
            "mark": MARKS[rank[i] % len(MARKS)],
            "dash": DASHES[rank[i] // len(LIGHT) % len(DASHES)],
            "width": 3 if i == hero else 2,
        }
        for i in range(count)
    ]
