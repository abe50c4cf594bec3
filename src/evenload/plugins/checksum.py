"""Checksums of experts' weights: exchanged between ranks, and compared after a move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.ballots import hand_in
from evenload.maps import EMPTY


def exchange(group: Any, number: int, mine: bytes, wait: float) -> list[bytes]:
    """Hand bytes in as this rank's of a round, and return those of all ranks.

    Raises
    ------
    LookupError
        If the group keeps no store, as those of elastic expert parallelism.
    TimeoutError
        If not all ranks hand something in within `wait` seconds.
    """
    from torch.distributed import distributed_c10d

    try:
        store = distributed_c10d._get_process_group_store(group)
    except KeyError:
        raise LookupError("vLLM's group of ranks has no store that PyTorch knows of") from None
    rank, key = group.rank(), "evenload/verify/{}/{}".format
    with suppress(Exception):  # some stores delete nothing
        store.delete_key(key(number - 2, rank))
    keys = [key(number, other) for other in range(group.size())]
    missing = hand_in(store, keys, rank, mine, wait)
    if missing:
        raise TimeoutError(
            f"ranks {missing} handed in no checksums within {wait:g} s; set EVENLOAD_VERIFY "
            "alike on all nodes"
        )
    return [bytes(store.get(said)) for said in keys]


def differences(
    layers: Sequence[int], maps: NDArray[np.int64], sums: NDArray[np.int64], slots_per_rank: int
) -> tuple[list[str], list[tuple[int, str]]]:
    """Return what differed before a move, and the rank and text of each slot that is wrong after.

    `maps`, [layers, 2, S], are the experts in the slots before and after, and `sums` the checksums
    of the slots. A slot is right if it holds what its expert was in any slot before. Nothing can be
    said of an expert that was nowhere.
    """

    def named(slots: Iterable[int]) -> str:
        return ", ".join(f"slot {slot} (rank {slot // slots_per_rank})" for slot in slots)

    mixed, wrong = [], []
    for layer, (old, new), (before, after) in zip(
        layers, maps.tolist(), sums.tolist(), strict=True
    ):
        had: dict[int, dict[int, int]] = {}  # expert: slot: checksum
        for slot, expert in enumerate(old):
            if expert != EMPTY:
                had.setdefault(expert, {})[slot] = before[slot]
        of = {number: expert for expert, held in had.items() for number in held.values()}
        for expert, held in had.items():
            if len(set(held.values())) > 1:
                mixed.append(f"layer {layer}: expert {expert} in {named(held)}")
        for slot, (expert, number) in enumerate(zip(new, after, strict=True)):
            if expert in had and number not in had[expert].values():
                holds = f"expert {of[number]}" if number in of else "no expert's weights"
                text = (
                    f"layer {layer}: expert {expert} was in {named(had[expert])}, and now "
                    f"{named([slot])} holds {holds}"
                )
                wrong.append((slot // slots_per_rank, text))
    return mixed, wrong
