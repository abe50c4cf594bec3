"""What serves while experts are on their way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenload.placement import Placement

Float = NDArray[np.float64]


def old_part(old_seconds: Float, new_seconds: Float, due: Float) -> Float:
    """Return the part of a window that each layer serves from its old place.

    A window takes the sum over its layers. Each layer that changes over alters how fast the rest of
    the window goes by, which is taken into account.

    Parameters
    ----------
    old_seconds, new_seconds : float64 ndarray, [L]
        What a layer takes for the whole window from either place.
    due : float64 ndarray, [L]
        When each layer changes over, in seconds of serving from the window's start, ascending; 0 or
        less for those that have.

    Returns
    -------
    float64 ndarray, [L]
        In [0, 1].
    """
    # Seconds that the whole window would take while the first l layers have changed over.
    pace = old_seconds.sum() + np.concatenate(([0.0], np.cumsum(new_seconds - old_seconds)[:-1]))
    stay = np.diff(np.maximum(due, 0.0), prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        served = np.where(stay > 0.0, stay / pace, 0.0)
    part: Float = np.minimum(np.cumsum(served), 1.0)
    return part


@dataclass
class Migration:
    """Layers that change over one after the other, while windows go by.

    Parameters
    ----------
    before : Placement
        Serves a layer until it is due.
    due : float64 ndarray, [L]
        When each layer changes over, in seconds of serving from now.
    """

    before: Placement
    due: Float

    def serve(self, mean: Float, old: Float, new: Float) -> Float:
        """Serve a window, and return the balancedness that each layer has over its time.

        Parameters
        ----------
        mean : float64 ndarray, [L]
            Seconds of each layer if it were perfectly balanced.
        old, new : float64 ndarray, [L]
            Balancedness from either place.
        """
        part = old_part(mean / old, mean / new, self.due)
        reached: Float = np.where(part <= 0.0, new, 1.0 / (part / old + (1.0 - part) / new))
        self.due = self.due - float((mean / reached).sum())
        return reached

    @property
    def done(self) -> bool:
        """Whether every layer has changed over."""
        return bool(self.due[-1] <= 0.0)
