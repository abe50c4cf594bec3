"""How long a search goes on: a count of steps, never seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evenload.checks import whole_number


def check_effort(effort: Any, levels: Mapping[str, int], unit: str) -> int:
    """Return an effort as a number of steps.

    Parameters
    ----------
    effort : str or int
        A level by name, or a number.
    levels : mapping, name -> steps
    unit : str
        What a step is called, in the plural, for the message.

    Raises
    ------
    ValueError
        For an unknown level, or a number that is no integer of at least 0.
    """
    if not isinstance(effort, str):
        return whole_number("effort", effort)
    if effort not in levels:
        known = ", ".join(levels)
        raise ValueError(
            f"effort={effort!r} is unknown; use one of: {known}, or a number of {unit}"
        )
    return levels[effort]
