"""SGLang's counts of forward passes, added up to few windows where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_WINDOWS = 16  # a plan holds hardly better under more of them, and each costs time


def windows_of(tokens: Any, most: int = MOST_WINDOWS) -> NDArray[Any]:
    """Add up consecutive passes to at most `most` windows; passes without tokens are left out.

    Whole numbers are added up on the tensor's device, where no order can change their sum, and only
    the windows come to the CPU: a thousand passes of 61 layers of 256 experts are 62 MB.

    Parameters
    ----------
    tokens : torch.Tensor, [steps, L, E]
        Tokens of each expert in each pass. Unused rows of the buffer are zero.
    most : int, default 16
        Windows at most.

    Returns
    -------
    int64 or float64 ndarray, [W, L, E]
        One window of zeros where no pass has tokens.

    Raises
    ------
    ValueError
        If the tensor has not three dimensions, or none of one of them.
    """
    if tokens.ndim != 3 or 0 in tokens.shape:
        raise ValueError(
            f"tokens_per_expert has shape {tuple(tokens.shape)}; use [steps, layers, experts], at "
            "least 1 of each"
        )
    if tokens.is_floating_point():
        exact = tokens.cpu().double().numpy()  # its sums keep one order on every machine
        return np.stack([exact[first:end].sum(axis=0) for first, end in _bounds(tokens, most)])
    return np.stack(
        [tokens[first:end].sum(dim=0).cpu().numpy() for first, end in _bounds(tokens, most)]
    )


def _bounds(tokens: Any, most: int) -> list[tuple[int, int]]:
    """Return first and end of windows with equally many passes that have tokens, or almost."""
    used = np.flatnonzero(tokens.flatten(1).any(dim=1).cpu().numpy())
    windows = min(most, len(used))
    if windows == 0:
        return [(0, 1)]
    first = [0, *(int(used[len(used) * w // windows]) for w in range(1, windows))]
    return list(zip(first, [*first[1:], len(tokens)], strict=True))
