"""A fingerprint of a load, to tell later which load a placement was made for."""

from __future__ import annotations

import hashlib

import numpy as np

from evenload.formats.base import Float


def load_digest(load: Float) -> str:
    """Return the SHA-256 of a load's shape and values, as ``sha256:`` and 64 hex digits.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
        Tokens routed to each expert; hashed as little-endian float64 after ``LxE:``.
    """
    shape = "x".join(str(n) for n in load.shape)
    values = np.ascontiguousarray(load, dtype="<f8").tobytes()
    return "sha256:" + hashlib.sha256(f"{shape}:".encode() + values).hexdigest()
