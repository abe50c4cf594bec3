"""What a solver may return when it has more to say than a placement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenload.placement import Placement


@dataclass(frozen=True, eq=False)
class Answer:
    """A placement with what its solver knows of it.

    Parameters
    ----------
    placement : Placement
    bound : float64 ndarray, [L], optional
        Upper limit on the balancedness of any placement that the solver proved.
    least_seconds : float64 ndarray, [L], optional
        Lower limit on the seconds of any placement that the solver proved, for plans by time.
    notes : tuple of str
        What was not possible, with the reason.
    """

    placement: Placement
    bound: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    least_seconds: NDArray[np.float64] | None = None
