"""Colours that tell policies apart, also for the colour-blind: with a mark and a dash each.

The hues follow Okabe and Ito (Color Universal Design, 2008), made darker on white and lighter on
black until lines reach a contrast of 3 to 1.
"""

from __future__ import annotations

LIGHT = (
    "#0072B2",
    "#C8520A",
    "#00805C",
    "#A64B86",
    "#8F6A00",
    "#3A8FC4",
    "#7A2E4D",
    "#5F6670",
)
DARK = (
    "#5CB6F0",
    "#FF9148",
    "#2FC79B",
    "#E79BCB",
    "#E3BE4B",
    "#A9D8F5",
    "#E27B8F",
    "#AEB6C0",
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
