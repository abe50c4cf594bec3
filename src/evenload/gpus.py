"""What a cluster says of each of its GPUs: slots, speed, whether it is alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenload.checks import positive_int, positive_real

MOST_SPEED_RATIO = 1000.0  # a GPU slower than that is worth no expert, and sums stay exact


def _one_for_each(name: str, value: Any, num_gpus: int) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise ValueError(f"{name}={value!r} is no sequence; use one entry for each GPU")
    entries = list(np.atleast_1d(value)) if isinstance(value, np.ndarray) else list(value)
    if len(entries) != num_gpus:
        raise ValueError(
            f"{name} has {len(entries)} entries for num_gpus={num_gpus}; use {num_gpus}"
        )
    return entries


def check_slots(slots: Any, num_gpus: int) -> tuple[int, ...]:
    """Return the slots of each GPU as positive ints, or raise `ValueError`."""
    entries = _one_for_each("slots", slots, num_gpus)
    return tuple(positive_int(f"slots[{g}]", value) for g, value in enumerate(entries))


def spread_evenly(num_slots: Any, num_gpus: int) -> tuple[int, ...]:
    """Deal slots out evenly, one more to the first GPUs where they do not divide.

    Raises
    ------
    ValueError
        If `num_slots` is no positive integer, or fewer than there are GPUs.
    """
    total = positive_int("num_slots", num_slots)
    if total < num_gpus:
        raise ValueError(
            f"num_slots={total} is fewer than num_gpus={num_gpus}, and every GPU has one at "
            f"least; use {num_gpus}"
        )
    each, more = divmod(total, num_gpus)
    return (each + 1,) * more + (each,) * (num_gpus - more)


def check_speed(speed: Any, alive: tuple[bool, ...]) -> tuple[float, ...]:
    """Return the speed of each GPU as floats, all 1 if they are alike, or raise `ValueError`."""
    num_gpus = len(alive)
    if speed is None:
        return (1.0,) * num_gpus
    entries = _one_for_each("speed", speed, num_gpus)
    floats = tuple(positive_real(f"speed[{g}]", value) for g, value in enumerate(entries))
    if len(set(floats)) == 1:
        return (1.0,) * num_gpus  # only ratios matter, and so equal clusters compare equal
    _check_ratio(floats, [g for g in range(num_gpus) if alive[g]])
    return floats


def _check_ratio(speed: tuple[float, ...], living: list[int]) -> None:
    fastest = max(speed[g] for g in living)
    slowest = min(living, key=speed.__getitem__)
    if speed[slowest] * MOST_SPEED_RATIO < fastest:
        raise ValueError(
            f"speed[{slowest}]={speed[slowest]} is less than 1/{MOST_SPEED_RATIO:.0f} of the "
            f"fastest GPU's {fastest}; use {fastest / MOST_SPEED_RATIO} or more, or alive=False"
        )


def check_alive(alive: Any, num_gpus: int) -> tuple[bool, ...]:
    """Return whether each GPU is alive, all if not given, or raise `ValueError`."""
    if alive is None:
        return (True,) * num_gpus
    entries = _one_for_each("alive", alive, num_gpus)
    for g, value in enumerate(entries):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"alive[{g}]={value!r} is no bool; use True or False")
    if not any(entries):
        raise ValueError(f"alive: all {num_gpus} GPUs are dead; use True for 1 or more")
    return tuple(bool(value) for value in entries)
