"""A number of moves for all layers together, spent where they gain most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evenload.solvers.rows import Float, Int
from evenload.solvers.sampled import Found

LEAST_PRICE = 0.0005
STEEPER = 2.0
MOST_STEPS = 12


def within_total(stay: Found, plan: Callable[[float], Found], price: float, total: int) -> Found:
    """Plan at the price, and if that takes too many moves at higher ones, mixing layers.

    Parameters
    ----------
    stay : Found
        The fewest moves there can be.
    plan : callable
        ``plan(price) -> Found``.
    price : float
        What a move has to gain at least.
    total : int
        Moves of all layers that there may be, no fewer than those of `stay`.
    """
    options = [stay, plan(price)]
    while options[-1].moves.sum() > total and len(options) < MOST_STEPS:
        price = max(price * STEEPER, LEAST_PRICE)
        options.append(plan(price))
    peak = np.stack([found.peak for found in options])
    moves = np.stack([found.moves for found in options])
    chosen = _choose(peak, moves, total)
    layer = np.arange(len(chosen))
    return Found(
        np.stack([found.placed for found in options])[chosen, layer],
        peak[chosen, layer],
        moves[chosen, layer],
    )


def _choose(peak: Float, moves: Int, total: int) -> Int:
    """Choose an option [O, L] for each layer, from the first one on by gain per move: int64 [L].

    Always the step, of any layer to any option, that gains most for each of its moves and still
    fits; the lowest layer and option first among equals.
    """
    layer = np.arange(peak.shape[1])
    chosen = np.zeros(len(layer), np.int64)
    left = total - int(moves[0].sum())
    while True:
        more = moves - moves[chosen, layer]
        legal = np.isfinite(peak)  # what runs may not keep groups on nodes: then any plan gains
        gain = np.where(legal, peak[chosen, layer] - np.where(legal, peak, 0.0), -1.0)
        fits = (gain > 0.0) & (more <= left)
        worth = np.where(fits, gain / np.maximum(more, 0.5), -np.inf)
        option, at = np.unravel_index(np.argmax(worth.T), worth.T.shape)[::-1]
        if not fits[option, at]:
            return chosen
        left -= int(more[option, at])
        chosen[at] = option
