"""How ranks come to one word over a store: they hand in ballots, and the first decides."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

FIRST_WAIT, LONGEST_WAIT = 0.0005, 0.02  # seconds between two looks
PART = 16  # bytes of a digest


def hand_in(
    store: Any, keys: Sequence[str], rank: int, mine: str | bytes, timeout: float, ended: str = "",
    enough: Callable[[list[int]], bool] | None = None,
) -> list[int]:  # fmt: skip
    """Put what this rank says into a store, wait for the others, and return who is missing.

    Parameters
    ----------
    store : torch.distributed.Store
    keys : sequence of str
        What each rank says is under its key, by rank.
    rank : int
    mine : str or bytes
        What this rank says.
    timeout : float
        Seconds to wait; 0 for as long as it takes.
    ended : str, optional
        Somebody else may end the wait by a value under this key.
    enough : callable, optional
        Gets who is missing so far, and tells whether that ends the wait.

    Returns
    -------
    list of int
        Ranks that have said nothing yet; empty where all have.
    """
    store.set(keys[rank], mine)
    deadline, wait = time.monotonic() + timeout, FIRST_WAIT
    while not store.check(list(keys)):
        over = bool(timeout and time.monotonic() > deadline) or bool(ended and store.check([ended]))
        if over or enough is not None:
            missing = [other for other, key in enumerate(keys) if not store.check([key])]
            if over or (enough is not None and enough(missing)):
                return missing
        time.sleep(wait)  # not in the store, which would be locked for all who ask it
        wait = min(2 * wait, LONGEST_WAIT)
    return []


def first_word(store: Any, key: str, mine: str) -> str:
    """Return what was decided under a key: what the first rank said here, whoever asks.

    `mine` is not empty, and decides where nobody has yet. A late rank gets the same answer.
    """
    word: bytes = store.compare_set(key, "", mine) or store.get(key)
    return word.decode()


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that tell parts from others."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.digest()[:PART]


def of_array(array: NDArray[Any]) -> bytes:
    """Return the digest of an array: the same for the same numbers on every machine."""
    kind = array.dtype.newbyteorder("<")
    return digest(repr((array.shape, kind.str)).encode(), array.astype(kind).tobytes())
