"""What the benchmarks compute with: nothing is timed here."""

import numpy as np
import pytest

from benchmarks import readme
from benchmarks.measure import ratio, summary
from benchmarks.packing import max_load
from benchmarks.quality import share_at_least


def test_ratio_is_the_median_within_rounds() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_summary_is_in_milliseconds() -> None:
    assert summary([0.003, 0.001, 0.002]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_max_load() -> None:
    weight, pack = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]]), np.array([[0, 1, 0], [1, 0, 0]])
    assert max_load(weight, pack, 2).tolist() == [4.0, 4.0]


def test_share_at_least_forgives_rounding_only() -> None:
    assert share_at_least([1.0, 0.5, 0.9], [1.0 + 1e-15, 0.6, 0.8]) == pytest.approx(2 / 3)


def test_the_table_goes_between_its_markers() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    wanted = f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    assert readme.insert(text, "new") == wanted
    for wrong in ("no markers", text + text, f"{readme.END} {readme.BEGIN}"):
        with pytest.raises(ValueError, match="the README needs one"):
            readme.insert(wrong, "new")
