"""The vectorised iterated greedy packing: one function, two backends."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Int, check_weights, is_tensor, rows_within_range, to_numpy
from evenload.checks import divisor, one_of, packing_options
from evenload.threads import spread

BACKENDS = ("compiled", "torch")
# For tensors on other devices than the CPU. Not measured yet against "compiled", which copies the
# weights to the host and the packing back: some 60 KB.
ON_DEVICE = "torch"


def pack_rows(
    weight: NDArray[Any],
    order: Int,
    packs: int,
    attempts: int,
    boost: float,
    swaps: int,
    target: float,
) -> Int:
    """Pack rows [X, n] of checked weights on their own, in the weights' own float type.

    `order` has the items of each row by descending weight, and is changed in place; a `target` of
    infinity is none. Returns the place of each item [X, n], those of a pack in a row.
    """
    from evenload.core.packing import pack_double, pack_single

    X, n = weight.shape
    if n == packs:
        return np.tile(np.arange(n), (X, 1))
    pack = pack_single if weight.dtype == np.float32 else pack_double
    options = packs, attempts, boost, swaps, target, float(1 + 8 * np.finfo(weight.dtype).eps)
    place = np.empty((X, n), np.int64)

    def run(first: int, end: int) -> None:
        rows = slice(first, end)
        pack(weight[rows], order[rows], *options, place[rows])

    spread(X, place.size, run)
    return place


def balanced_packing(
    weight: Any,
    num_packs: int,
    num_attempts: int = 5,
    *,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
    backend: str | None = None,
) -> tuple[Any, Any]:
    """Pack the items of each row into equally filled packs, the heaviest as light as can be.

    Returns the pack of each item and its place there, both int64 [X, n]: tensors on the device of
    `weight` if it is one. With one item a pack, item i goes to pack i.

    Each attempt packs longest first by virtual weight, then up to `max_swaps` times does the best
    swap between the heaviest pack and any other; the items of the pack that is heaviest in the end
    are made virtually heavier by `boost`, 1 to 1e9, and the row is packed again. The best of
    `num_attempts` counts, or the first that reaches the `target`. float32 is computed in float32 by
    both backends, half precision as float32, the rest in float64; ties go to the lowest index, so
    the backends agree to the item where the largest weight of a row is at most 1e20 times its
    smallest above 0. Past that both plans are legal, and in float64 they may differ.

    Parameters
    ----------
    weight : array_like or torch.Tensor, [X, n]
        Weights of n items in each of X rows, finite and at least 0 (else a `ValueError`), in any
        unit. Never modified.
    num_packs : int
        Packs of a row; divides n. Every pack gets n / num_packs items.
    target : float, optional
        Mean / max pack weight in (0, 1] at which a row is good enough.
    backend : {"compiled", "torch"}, optional
        Compiled loops over rows, or tensor operations over all rows at once. Default: compiled for
        arrays and tensors on the CPU, torch on other devices.

    """
    attempts, swaps, goal = packing_options(num_attempts, boost, max_swaps, target)
    if backend is None:
        backend = ON_DEVICE if is_tensor(weight) and weight.device.type != "cpu" else "compiled"
    one_of("backend", backend, BACKENDS)
    array, rewrap = to_numpy("weight", weight)
    if array.ndim != 2:
        raise ValueError(f"weight has {array.ndim} dimensions {array.shape}; use [rows, items]")
    if array.size == 0:
        raise ValueError(f"weight has shape {array.shape}; use at least one row and one item")
    packs = divisor("num_packs", num_packs, "the number of items", array.shape[1])
    checked: NDArray[Any] = check_weights("weight", array)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        checked = np.require(array, np.float32, ["C", "A", "W"])
    goal = max(goal, 0.5 / packs)  # every packing reaches 1 / packs; what is asked stays finite
    options = packs, attempts, float(boost), swaps
    if backend == "compiled":
        checked = rows_within_range(checked)
        order = np.argsort(-checked, axis=1, kind="stable")
        index, rank = np.divmod(pack_rows(checked, order, *options, goal), array.shape[1] // packs)
        return rewrap(index), rewrap(rank)
    import torch

    from evenload.core.torch_packing import pack

    tensor = weight if is_tensor(weight) else torch.from_numpy(checked)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    index, rank = pack(tensor, *options, None if math.isinf(goal) else goal)
    return (index, rank) if is_tensor(weight) else (index.numpy(), rank.numpy())
