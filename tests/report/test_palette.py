"""Policies can be told apart by colour, also by those who see fewer of them."""

import numpy as np
import pytest

from evenload.report.palette import DARK, DASHES, LIGHT, styles

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as it is seen.
SIGHT = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_no_two_colours_look_alike(colours, sight):
    seen = np.array([lab(np.array(SIGHT[sight]) @ linear(colour)) for colour in colours])
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    distance[np.diag_indices(len(colours))] = np.inf
    assert distance.min() >= 15.0


@pytest.mark.parametrize(("colours", "paper"), [(LIGHT, "#ffffff"), (DARK, "#14171b")])
def test_colours_stand_out_from_the_paper(colours, paper):
    for colour in colours:
        light, dark = sorted((XYZ[1] @ linear(c) for c in (colour, paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, colour


def test_styles_are_all_different():
    count = len(LIGHT) * len(DASHES)
    made = styles(count, hero=3)
    assert len({(s.colour, s.mark, s.dash) for s in made}) == count
    assert [s.width for s in made].index(3) == 3
    assert (made[3].colour, made[3].mark) == (0, "circle")
