"""The smallest of many floats that change one at a time.

Every inner node of a binary tree holds the index of the smaller of its two children (the lower
index of two equal ones), so that a change walks one path to the root.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[Any]


@kernel
def width_for(size: int) -> int:
    """Return the number of leaves for `size` keys, a power of two, at least 2."""
    width = 2
    while width < size:
        width *= 2
    return width


@kernel
def _play(tree: Int, key: Float, node: int) -> None:
    left, right = tree[2 * node], tree[2 * node + 1]
    tree[node] = left if key[left] <= key[right] else right


@kernel
def start(key: Float) -> Int:
    """Build the tree over keys, one a leaf; ``tree[1]`` is the index of the smallest."""
    width = key.size
    tree = np.empty(2 * width, np.int64)
    for leaf in range(width):
        tree[width + leaf] = leaf
    for node in range(width - 1, 0, -1):
        _play(tree, key, node)
    return tree


@kernel
def replay(tree: Int, key: Float, leaf: int) -> None:
    """Settle the tree after the key of one leaf changed."""
    node = (tree.size // 2 + leaf) >> 1
    while node >= 1:
        _play(tree, key, node)
        node >>= 1
